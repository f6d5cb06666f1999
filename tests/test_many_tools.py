"""Many tools, many calls and large labels: bounded, and read the same in each form."""

import json
from typing import Any

import pytest

from mathsft.course import course
from mathsft.data.labelled import head_for
from mathsft.data.pairs import answer_key
from mathsft.data.schemas import UnusableRowError
from mathsft.models.chat_template import Conversation
from mathsft.objectives.left_out import refuse_partial_turn, refuse_unused_arguments

USER = {"role": "user", "content": "2 + 2?"}


class Writer:
    """Writes all that it gets, but for the last of ``lost``; it counts how often it writes."""

    chat_template = "{{ tools }}{{ messages }}"

    def __init__(self, lost: int | None = None) -> None:
        self.writings, self.lost = 0, lost

    def get_chat_template(self, tools: Any = None) -> str:
        return self.chat_template

    def apply_chat_template(self, messages: Any, *, tools: Any = None, **_: Any) -> str:
        self.writings += 1
        shown = [tool for tool in tools or () if tool["name"] != self.lost]
        turns = [
            {**turn, "tool_calls": [c for c in turn.get("tool_calls", ()) if c["id"] != self.lost]}
            for turn in messages
        ]
        return json.dumps([shown, turns])


def asked(count: int, lost: int | None = None) -> int:
    """How often a template is rendered to see whether it writes ``count`` tools and calls."""
    writer = Writer(lost)
    calls = [{"id": n, "name": "add", "arguments": {"a": n}} for n in range(count)]
    turns = [USER, {"role": "assistant", "content": "", "tool_calls": calls}]
    tools = [{"name": n} for n in range(count)]
    given = Conversation(turns, [False, True], {"tools": tools})
    refuse_unused_arguments(given, writer)
    whole = given.rendered(writer, reply=False)
    refuse_partial_turn(given, 1, whole, whole, writer)
    return writer.writings


def test_a_template_is_not_rendered_for_each_of_hundreds_of_tools() -> None:
    assert asked(8) < asked(32) < 4 * 40
    assert asked(640) <= asked(32)
    assert asked(65) <= asked(32)


@pytest.mark.parametrize("count", [1, 2, 32])
def test_each_tool_and_each_call_that_is_left_out_is_found(count: int) -> None:
    for lost in range(count):
        with pytest.raises(UnusableRowError, match="whose tools the chat template leaves out"):
            asked(count, lost)
        calls = [{"id": n, "name": "add", "arguments": {"a": n}} for n in range(count)]
        turns = [USER, {"role": "assistant", "content": "", "tool_calls": calls}]
        given, writer = Conversation(turns, [False, True]), Writer(lost)
        whole = given.rendered(writer, reply=False)
        with pytest.raises(UnusableRowError, match="tool_calls the chat template leaves out"):
            refuse_partial_turn(given, 1, whole, whole, writer)


@pytest.mark.parametrize("nested", [True, False])
def test_arguments_as_text_and_as_an_object_are_one_answer(nested: bool) -> None:
    def key(arguments: Any) -> str:
        call = {"name": "add", "arguments": arguments}
        calls = [{"function": call} if nested else call]
        return answer_key([{"role": "assistant", "content": None, "tool_calls": calls}])

    assert key('{"a": 1, "b": 2}') == key({"b": 2, "a": 1})
    assert key('{"a": 1}') != key({"a": 2})
    assert key("no JSON") != key({"a": 1})
    assert key("9" * 5000) != key("[" * 100_000)  # such texts stay texts


@pytest.mark.parametrize("label", [100_001, 10**18, 10**400])
def test_a_class_that_would_make_a_giant_head_is_refused(label: int) -> None:
    with pytest.raises(ValueError, match=r"row 0, column 'label': a class is above 100,000"):
        head_for([{"prompt": "a", "label": label}])
    assert head_for([{"prompt": "a", "label": 7}])["num_labels"] == 8


def test_one_lesson_may_be_given_as_a_text() -> None:
    with pytest.raises(ValueError, match=r"unknown lesson '01_sf': .*did you mean '01_sft'"):
        course("01_sf")
