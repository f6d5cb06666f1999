"""Tool calls reach the chat template and are trained with their stop, or the row is dropped."""

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from chat_rows import TEMPLATE, document, new_tokenizer, trained_parts, with_template
from datasets import Dataset
from problem_rows import jsonl
from tool_chats import ADD, TOOLS, call, tool_chat, written

from mathsft.data.contamination import overlap
from mathsft.data.local_files import write_rows
from mathsft.data.mixtures import mix_datasets
from mathsft.data.problems import load_problems, read_problems
from mathsft.objectives.sft import tokenize_problems
from mathsft.training.callbacks import show_samples

CALL = '<tool_call>{"name": "add", "arguments": {"a": 2, "b": 3}}</tool_call>~'


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return with_template(new_tokenizer(), TOOLS)


@pytest.mark.parametrize(
    ("row", "first"),
    [
        (tool_chat(), CALL),
        (tool_chat(content=None), CALL),
        (tool_chat(content="Let me add."), "Let me add." + CALL),
        (
            tool_chat(call(), call("sub", {"x": [1, {"y": None}]}, id="7")),
            CALL[:-1]
            + '<tool_call>{"name": "sub", "arguments": {"x": [1, {"y": null}]}}</tool_call>~',
        ),
    ],
    ids=["call", "null content", "text beside it", "two calls"],
)
def test_calls_are_trained_as_the_template_writes_them(
    tokenizer: Any, tmp_path: Path, row: dict[str, Any], first: str
) -> None:
    found = document(row, tokenizer)
    assert trained_parts(found, tokenizer) == [first, "It is 5.~"]
    assert tokenizer.decode(found["input_ids"]) == written(row, tokenizer)
    (read,) = load_problems(jsonl(tmp_path / "a.jsonl", row))
    assert json.loads(read["tools"]) == [ADD]
    assert document(read, tokenizer) == found


def test_tool_results_and_tool_definitions_carry_no_loss(tokenizer: Any) -> None:
    found = document(tool_chat(), tokenizer)
    trained = "".join(trained_parts(found, tokenizer))
    text = tokenizer.decode(found["input_ids"])
    for part in ("<tool_response>5</tool_response>", "The sum of two numbers."):
        assert part in text
        assert part not in trained


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_a_mixture_keeps_calls_and_tools_in_a_file(
    tokenizer: Any, tmp_path: Path, suffix: str
) -> None:
    rows = [tool_chat(call(arguments={"a": n})) for n in range(4)]
    plain = [{"messages": [m for m in row["messages"] if "content" in m][::3]} for row in rows]
    sets = {
        "tools": read_problems(jsonl(tmp_path / "t.jsonl", *rows))[0],
        "plain": read_problems(jsonl(tmp_path / "p.jsonl", *plain))[0],
        "sums": read_problems("tiny-gsm", limit=4)[0],
    }
    mixture = mix_datasets({name: 4 for name in sets}, datasets=sets, test=None)
    again = read_problems(write_rows(mixture, tmp_path / f"m{suffix}"))[0]
    assert again.features == mixture.features
    assert again.to_list() == mixture.to_list()
    expected = [d for row in [*rows, *plain, *sets["sums"]] for d in [document(row, tokenizer)]]
    for data in (mixture, again):
        documents, dropped = tokenize_problems(data, tokenizer)
        assert not dropped
        assert sorted(map(str, documents)) == sorted(map(str, expected))


def test_nulls_that_arrow_adds_to_calls_are_not_trained(tokenizer: Any, tmp_path: Path) -> None:
    rows = [tool_chat(call(arguments={"a": 2})), tool_chat(call(arguments={"b": 3}))]
    rows[1]["tools"] = [{"type": "function", "function": {"name": "add"}}]
    rows = json.loads(json.dumps(rows, sort_keys=True))  # some versions of Arrow sort the keys
    expected = [document(row, tokenizer) for row in rows]
    assert tokenize_problems(Dataset.from_list(rows), tokenizer) == (expected, {})
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    assert tokenize_problems(read_problems(tmp_path / "a.parquet")[0], tokenizer) == (expected, {})


def test_arguments_are_written_as_an_object_for_every_form_of_row_and_template() -> None:
    as_object = with_template(new_tokenizer(), TOOLS)
    as_text = with_template(
        new_tokenizer(),
        TOOLS.replace("call.function.arguments | tojson", "'' + call.function.arguments"),
    )
    printed = with_template(
        new_tokenizer(),
        TOOLS.replace("call.function.arguments | tojson", "call.function.arguments"),
    )
    for tokenizer in (as_object, as_text, printed):
        for arguments in ({"a": 2, "b": 3}, '{"a": 2, "b": 3}'):
            found = document(tool_chat(call(arguments=arguments)), tokenizer)
            assert trained_parts(found, tokenizer)[0] == CALL


def dropping(old: str, new: str) -> str:
    assert old in TOOLS
    return TOOLS.replace(old, new)


CALLS = "whose tool_calls the chat template leaves out"


@pytest.mark.parametrize(
    ("template", "row", "reason"),
    [
        (TEMPLATE, {**tool_chat(content="Wait."), "tools": None}, CALLS),
        (TEMPLATE, {**tool_chat(), "tools": []}, CALLS),
        (TEMPLATE, tool_chat(), "whose tools the chat template leaves out"),
        (dropping("in m.tool_calls or []", "in (m.tool_calls or [])[:1]"),
         tool_chat(call(), call("sub")), CALLS),
        (dropping("{{ call.function.arguments | tojson }}", "{}"), tool_chat(), CALLS),
        (dropping("+ (m.content or '')", "+ ('' if m.tool_calls else m.content)"),
         tool_chat(content="Wait."),
         "whose content beside tool_calls the chat template leaves out"),
        (dropping("{% if tools %}", "{% if false %}"), tool_chat(),
         "whose tools the chat template leaves out"),
        (dropping("in tools %}", "in tools[:1] %}"),
         {**tool_chat(call("sub")),
          "tools": [ADD, {"type": "function", "function": {"name": "sub"}}]},
         "whose tools the chat template leaves out"),
        (dropping("{{ '^user\n<tool_response>' + m.content + '</tool_response>~\n' }}", ""),
         tool_chat(), "whose tool turn the chat template leaves out"),
        (dropping("{% if m.role == 'tool' %}",
                  "{% if m.role == 'tool' %}{{ raise_exception('No tools') }}"),
         tool_chat(), "that the chat template refuses (No tools)"),
        (dropping("{% if m.role == 'tool' %}", "{% if m.role == 'tool' %}{{ m.nothing + 1 }}"),
         tool_chat(), "that the chat template refuses ('dict object' has no attribute 'nothing')"),
        (TOOLS, tool_chat(call(arguments={"a": "~"})),
         "that hold a control token of the tokenizer"),
        (TOOLS, {**tool_chat(), "tools": [{**ADD, "note": "ends with ~"}]},
         "that hold a control token of the tokenizer"),
    ],
)  # fmt: skip
def test_what_the_template_leaves_out_drops_the_row_and_names_it(
    template: str, row: dict[str, Any], reason: str
) -> None:
    tokenizer = with_template(new_tokenizer(), template)
    plain = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "A"}]}
    documents, dropped = tokenize_problems([row, plain], tokenizer)
    assert dropped == {reason: 1}
    assert len(documents) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tool_calls": "[{"}, r"messages\[1\], 'tool_calls': not valid JSON"),
        ({"tool_calls": {"name": "add"}}, r"messages\[1\], 'tool_calls': expected a list of obj"),
        ({"tool_calls": ["add"]}, r"messages\[1\], 'tool_calls': expected a list of objects"),
        ({"role": "user"}, r"messages\[1\]: 'tool_calls' belongs to an assistant turn, not to"),
    ],
)
def test_broken_calls_are_an_error_that_names_the_message(
    tokenizer: Any, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    row = tool_chat()
    row["messages"][1] |= change
    with pytest.raises(ValueError, match=f"a.jsonl, row 1, {message}"):
        read_problems(jsonl(tmp_path / "a.jsonl", row))
    with pytest.raises(ValueError, match=f"row 0, {message}"):
        tokenize_problems([row], tokenizer)


@pytest.mark.parametrize(
    ("tools", "message"),
    [("nothing", "'tools': not valid JSON"), ({"name": "a"}, "'tools': expected a list of objects"),
     (["add"], "'tools': expected a list of objects"), (3, "'tools': expected a list of objects")],
)  # fmt: skip
def test_broken_tools_are_an_error_and_json_text_is_read(
    tokenizer: Any, tmp_path: Path, tools: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=f"row 1, {message}"):
        read_problems(jsonl(tmp_path / "a.jsonl", {**tool_chat(), "tools": tools}))
    text = {**tool_chat(), "tools": json.dumps([ADD])}
    assert document(text, tokenizer) == document(tool_chat(), tokenizer)


def test_a_sample_shows_the_call_and_only_users_are_asked(tokenizer: Any) -> None:
    row = tool_chat()
    row["messages"][3]["weight"] = 0
    (sample,) = show_samples(tokenizer, [row], samples=1)._samples
    assert (sample["question"], sample["wanted"]) == ("What is 2 + 3?", CALL[:-1])
    assert tokenizer.decode(sample["input_ids"]).endswith("What is 2 + 3?~\n^assistant\n")
    assert overlap([row], [{"question": "what is 2 + 3?"}]).counts["exact"] == 1
    assert overlap([row], [{"question": "5"}]).counts["exact"] == 0


QWEN = '{"name": "add", "arguments": {"a": 2, "b": 3}}'
# What the model writes to call a tool under published templates.
PUBLISHED = {
    "qwen2_5": f"<tool_call>\n{QWEN}\n</tool_call><|im_end|>",
    "qwen3_training": f"<think>\n\n</think>\n\n<tool_call>\n{QWEN}\n</tool_call><|im_end|>",
    "llama3_1": '{"name": "add", "parameters": {"a": 2, "b": 3}}<|eot_id|>',
    "gptoss": None,  # a call and an answer end with different tokens
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_templates_train_calls_in_either_form(name: str) -> None:
    path = files("trl") / "chat_templates" / f"{name}.jinja"
    if not path.is_file():
        pytest.skip(f"this TRL has no template {name}")
    tokenizer = new_tokenizer()
    marks = ["<|im_start|>", "<|im_end|>", "<|eot_id|>", "<|end|>", "<|return|>", "<|call|>"]
    tokenizer.add_special_tokens({"additional_special_tokens": marks})
    tokenizer.chat_template = path.read_text(encoding="utf-8")
    for arguments in ({"a": 2, "b": 3}, '{"a": 2, "b": 3}'):
        row = tool_chat(call(arguments=arguments))
        found, dropped = tokenize_problems([row], tokenizer, max_length=2000)
        if PUBLISHED[name] is None:
            reason = "whose tool_calls the chat template ends differently from an answer"
            assert dropped == {reason: 1}
        else:
            assert not dropped
            assert trained_parts(found[0], tokenizer)[0] == PUBLISHED[name]
