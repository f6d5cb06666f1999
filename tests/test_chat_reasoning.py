"""Reasoning, template arguments, content in parts: used as the template does, or counted drops."""

import json
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from chat_rows import TEMPLATE, chat, document, new_tokenizer, trained_parts, with_template
from problem_rows import jsonl
from tool_chats import REASONING, thought, written

from mathsft.data.contamination import without_test_rows
from mathsft.data.local_files import write_rows
from mathsft.data.mixtures import mix_datasets
from mathsft.data.problems import load_problems, read_problems
from mathsft.objectives.sft import tokenize_problems
from mathsft.training.callbacks import show_samples

ONE = thought(("3 and 2.", "It is 5."))


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return with_template(new_tokenizer(), REASONING)


def test_reasoning_is_trained_before_the_answer(tokenizer: Any, tmp_path: Path) -> None:
    row = thought(("3 and 2.", "It is 5."), ("Still 5.", "Yes."))
    found = document(row, tokenizer)
    assert trained_parts(found, tokenizer) == [
        "<think>\n3 and 2.\n</think>\n\nIt is 5.~",
        "<think>\nStill 5.\n</think>\n\nYes.~",
    ]
    assert tokenizer.decode(found["input_ids"]) == written(row, tokenizer)
    (read,) = read_problems(jsonl(tmp_path / "a.jsonl", row))[0]
    assert document(read, tokenizer) == found


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning", "thinking"])
def test_each_name_of_reasoning_reaches_the_template_that_reads_it(
    tmp_path: Path, key: str
) -> None:
    reads = with_template(new_tokenizer(), REASONING.replace("reasoning_content", key))
    row = json.loads(json.dumps(ONE).replace("reasoning_content", key))
    (read,) = read_problems(jsonl(tmp_path / "a.jsonl", row))[0]
    assert trained_parts(document(read, reads), reads) == [
        "<think>\n3 and 2.\n</think>\n\nIt is 5.~"
    ]
    other = with_template(new_tokenizer(), REASONING.replace("reasoning_content", "thoughts"))
    dropped = {f"whose {key} the chat template leaves out": 1}
    assert tokenize_problems([read], other) == ([], dropped)
    assert tokenize_problems([row], with_template(new_tokenizer(), TEMPLATE)) == ([], dropped)


def test_reasoning_that_is_taken_away_later_drops_the_conversation(tokenizer: Any) -> None:
    strips = with_template(
        new_tokenizer(),
        REASONING.replace(
            "{% if m.role == 'assistant' %}", "{% if m.role != 'user' and loop.last %}"
        ),
    )
    assert trained_parts(document(ONE, strips), strips) == [
        "<think>\n3 and 2.\n</think>\n\nIt is 5.~"
    ]
    two = thought(("3 and 2.", "It is 5."), ("Still 5.", "Yes."))
    assert tokenize_problems([two], strips) == ([], {"that the chat template rewrites": 1})
    shortens = with_template(
        new_tokenizer(),
        REASONING.replace("m.reasoning_content or ''", "(m.reasoning_content or '')[:3]"),
    )
    reason = {"whose reasoning_content the chat template leaves out": 1}
    assert tokenize_problems([ONE], shortens) == ([], reason)


def test_template_arguments_are_used_for_the_prompt_and_the_whole(
    tokenizer: Any, tmp_path: Path
) -> None:
    row = chat("2 + 3?", "Five.", "Sure?", "Yes.")
    on, off = ({**row, "chat_template_kwargs": {"enable_thinking": x}} for x in (True, False))
    empty = "<think>\n\n</think>\n\n"
    assert trained_parts(document(row, tokenizer), tokenizer)[0] == f"{empty}Five.~"
    assert document(on, tokenizer) == document(row, tokenizer)
    found = document(off, tokenizer)
    assert trained_parts(found, tokenizer) == ["Five.~", "Yes.~"]
    assert tokenizer.decode(found["input_ids"]) == written(off, tokenizer)
    text = {**row, "chat_template_kwargs": '{"enable_thinking": false}'}
    assert document(text, tokenizer) == found
    (read,) = read_problems(jsonl(tmp_path / "a.jsonl", off))[0]
    assert document(read, tokenizer) == found
    (sample,) = show_samples(tokenizer, [read], samples=1)._samples
    assert tokenizer.decode(sample["input_ids"]).endswith(f"^assistant\n{empty}")


@pytest.mark.parametrize(
    ("kwargs", "reason"),
    [
        ({"effort": "high"}, "whose effort (chat_template_kwargs) the chat template leaves out"),
        (
            {"enable_thinking": True, "date": "today"},
            "whose date (chat_template_kwargs) the chat template leaves out",
        ),
        (
            {"add_generation_prompt": True},
            "whose chat_template_kwargs set the tokenizer's add_generation_prompt",
        ),
        ({"messages": []}, "whose chat_template_kwargs set the tokenizer's messages"),
        ({"chat_template": "x"}, "whose chat_template_kwargs set the tokenizer's chat_template"),
    ],
    ids=str,
)
def test_arguments_that_change_nothing_or_too_much_drop_the_row(
    tokenizer: Any, kwargs: dict[str, Any], reason: str
) -> None:
    row = {**ONE, "chat_template_kwargs": kwargs}
    assert tokenize_problems([row, ONE], tokenizer)[1] == {reason: 1}


@pytest.mark.parametrize("kwargs", ["no", [1], 3, True])
def test_arguments_of_another_form_are_an_error(tmp_path: Path, kwargs: Any) -> None:
    row = {**ONE, "chat_template_kwargs": kwargs}
    with pytest.raises(
        ValueError, match=r"row 1, 'chat_template_kwargs': (not valid JSON|expected an obj)"
    ):
        read_problems(jsonl(tmp_path / "a.jsonl", row))


def test_a_mixture_keeps_reasoning_and_arguments(tokenizer: Any, tmp_path: Path) -> None:
    off = {**chat("2 + 3?", "Five."), "chat_template_kwargs": {"enable_thinking": False}}
    sets = {
        name: read_problems(jsonl(tmp_path / f"{name}.jsonl", *[row] * 3))[0]
        for name, row in (("thought", ONE), ("off", off), ("plain", chat("Hi", "Hello.")))
    }
    mixture = mix_datasets({name: 3 for name in sets}, datasets=sets, test=None)
    again = read_problems(write_rows(mixture, tmp_path / "m.parquet"))[0]
    assert again.to_list() == mixture.to_list()
    documents, dropped = tokenize_problems(again, tokenizer)
    assert not dropped
    parts = sorted(part for found in documents for part in trained_parts(found, tokenizer))
    expected = [
        "<think>\n\n</think>\n\nHello.~",
        "<think>\n3 and 2.\n</think>\n\nIt is 5.~",
        "Five.~",
    ]
    assert parts == sorted(expected * 3)


PARTS = [{"type": "text", "text": "What is "}, {"type": "text", "text": "2 + 3?"}]


def test_content_in_parts_of_text_is_the_text(tokenizer: Any, tmp_path: Path) -> None:
    row = chat("", "Five.")
    row["messages"][0]["content"] = PARTS
    plain = chat("What is 2 + 3?", "Five.")
    assert document(row, tokenizer) == document(plain, tokenizer)
    rows = load_problems(jsonl(tmp_path / "a.jsonl", row))
    assert rows.to_list() == load_problems(jsonl(tmp_path / "a.jsonl", plain)).to_list()
    assert len(without_test_rows(rows, [{"question": "What is 2 + 3?"}])) == 0


@pytest.mark.parametrize(
    ("part", "reason"),
    [
        ({"type": "image"}, "image"),
        ({"type": "image_url", "image_url": {"url": "a.png"}}, "image_url"),
        ({"type": "thinking", "thinking": "Hm"}, "thinking"),
        ({"type": "tool_use", "name": "add"}, "tool_use"),
    ],
)
def test_content_that_is_no_text_drops_the_row(
    tokenizer: Any, tmp_path: Path, part: dict[str, Any], reason: str
) -> None:
    row = chat("", "Five.")
    row["messages"][0]["content"] = [*PARTS, part]
    reasons = {f"with content that is not text ({reason})": 1}
    good = chat("Hi", "Hello.")
    assert read_problems(jsonl(tmp_path / "a.jsonl", row, good))[1] == reasons
    assert tokenize_problems([row, good], tokenizer)[1] == reasons


@pytest.mark.parametrize("parts", [["hi"], [{"type": "text", "text": 5}], {"text": "hi"}])
def test_parts_of_another_form_are_an_error(tmp_path: Path, parts: Any) -> None:
    row = chat("", "Five.")
    row["messages"][0]["content"] = parts
    with pytest.raises(ValueError, match=re.escape("a.jsonl, row 1, messages[0]")):
        read_problems(jsonl(tmp_path / "a.jsonl", row))


def test_qwen3_trains_a_last_answer_with_its_reasoning() -> None:
    path = files("trl") / "chat_templates" / "qwen3.jinja"
    if not path.is_file():
        pytest.skip("this TRL has no template qwen3")
    tokenizer = new_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = path.read_text(encoding="utf-8")
    end = "\n</think>\n\nIt is 5.<|im_end|>"
    assert trained_parts(document(ONE, tokenizer), tokenizer) == [f"<think>\n3 and 2.{end}"]
    off = {**chat("2 + 3?", "Five."), "chat_template_kwargs": {"enable_thinking": False}}
    assert trained_parts(document(off, tokenizer), tokenizer) == ["Five.<|im_end|>"]
    two = thought(("3 and 2.", "It is 5."), ("Still 5.", "Yes."))
    assert tokenize_problems([two], tokenizer) == ([], {"that the chat template rewrites": 1})


def test_a_system_turn_that_the_template_leaves_out_drops_the_row() -> None:
    silent = with_template(
        new_tokenizer(), TEMPLATE.replace("in messages %}", "in messages if m.role != 'system' %}")
    )
    rows = [chat("Hi", "Hello.", system="Be brief."), chat("Hi", "Hello.")]
    reason = {"whose system turn the chat template leaves out": 1}
    assert tokenize_problems(rows, silent)[1] == reason
