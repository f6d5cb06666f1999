"""Rows as they are published, given without `load_problems`: errors say what is missing."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from datasets import Dataset

from mathsft.data.choices import add_choices
from mathsft.data.contamination import overlap
from mathsft.evaluation.worked import worked_answers
from mathsft.generation.reward_checks import check_judge
from mathsft.generation.rewards import reward_by_name
from mathsft.generation.rollouts import sample_groups
from mathsft.generation.scoring import score
from mathsft.generation.selection import rejection_sampling
from mathsft.models.likelihood import choice_logprobs
from mathsft.models.loading import load_model
from mathsft.models.pretrained import load_tokenizer
from mathsft.objectives import objective_classes
from mathsft.training.callbacks import show_samples
from mathsft.training.make import sft_trainer
from mathsft.training.preview import preview
from mathsft.training.prompts import Prompts
from mathsft.training.rows import training_rows

OWN = {
    "question": "2 + 2?", "solution": "It is 4.", "answer": "4", "choices": ["3", "4"],
    "label": 1, "source": "own",
}  # fmt: skip
SHAREGPT = {"conversations": [{"from": "human", "value": "2?"}, {"from": "gpt", "value": "2"}]}
Use = Callable[[Any, Any], Any]


@pytest.fixture(scope="module")
def tokenizer(small_model_dir: Path) -> Any:
    found = load_tokenizer(str(small_model_dir), None)
    found.chat_template = (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    return found


@pytest.fixture(scope="module")
def published(data_dir: Path) -> dict[str, Any]:
    gsm8k = (data_dir / "gsm8k" / "train.jsonl").read_text(encoding="utf-8").splitlines()
    mathqa = json.loads(next((data_dir / "mathqa").glob("*.json")).read_text(encoding="utf-8"))
    return {
        "GSM8K": [json.loads(line) for line in gsm8k[:3]],
        "MathQA": mathqa[:3],
        "ShareGPT": [SHAREGPT],
    }


def trained_for(name: str) -> Use:
    return lambda rows, tokenizer: training_rows(rows, tokenizer, objective_classes()[name]())


def judged(rows: Any, tokenizer: Any) -> Any:
    return check_judge(reward_by_name("final_answer"), rows)


def chosen(rows: Any, tokenizer: Any) -> Any:
    reward = reward_by_name("final_answer")
    return rejection_sampling(None, tokenizer, rows, reward, output="unused.jsonl")


# One objective for each way to read rows.
KINDS_OF_ROWS = ("sft", "multiple_choice", "dpo", "kto", "reward_model", "grpo", "classification")
# Each of them reads its rows before it uses the model.
USES: dict[str, Use] = {
    **{name: trained_for(name) for name in KINDS_OF_ROWS},
    "prompts": lambda rows, t: Prompts.of(rows, t, name="train", max_tokens=9),
    "show_samples": lambda rows, t: show_samples(t, rows),
    "choice_logprobs": lambda rows, t: choice_logprobs(None, t, rows),
    "worked_answers": lambda rows, t: worked_answers(None, t, rows),
    "score": lambda rows, t: score(None, t, rows),
    "sample_groups": lambda rows, t: sample_groups(None, t, rows),
    "add_choices": lambda rows, t: add_choices(rows),
    "overlap": lambda rows, t: overlap(rows, [OWN]),
    "rejection_sampling": chosen,
    "check_judge": judged,
    "preview": lambda rows, t: preview(
        rows, None, objective_classes()["sft"](), model={"name": "tiny"}
    ),
}
# These read GSM8K's rows as they are published.
ASKING = {"prompts", "worked_answers", "overlap", "rejection_sampling", "check_judge"}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("format_", ["GSM8K", "MathQA", "ShareGPT"])
def test_published_rows_are_refused_with_the_row_and_what_reads_them(
    use: str, format_: str, published: Any, tokenizer: Any
) -> None:
    if format_ == "GSM8K" and use in ASKING:
        pytest.skip("it needs only the question and the answer, which GSM8K's rows have")
    with pytest.raises(ValueError, match=r".") as found:
        USES[use](published[format_], tokenizer)
    told = str(found.value)
    assert "row 0" in told or "problem 0" in told or "prompt 0" in told or use == "add_choices"
    makers = ("load_problems", "add_choices", "rejection_sampling", "rollout_trainer", "sft_prompt")
    assert any(maker in told for maker in (*makers, "column 'label'"))


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize(
    "rows",
    [
        None, 5, "train.jsonl", OWN, {"question": ["2?"], "answer": ["2"]}, ["2 + 2?"], [None],
        pd.DataFrame([OWN]),
    ],
    ids=["null", "number", "file", "one row", "columns", "texts", "nulls", "pandas"],
)  # fmt: skip
def test_what_is_no_list_of_rows_is_refused_in_words(use: str, rows: Any, tokenizer: Any) -> None:
    if use == "sample_groups" and isinstance(rows, list) and rows[0]:
        pytest.skip("a list of texts is what it takes")
    with pytest.raises(ValueError, match=r"expected"):
        USES[use](rows, tokenizer)


def test_a_trainer_names_the_set_of_rows_the_row_and_the_column(
    small_model_dir: Path, published: Any, tmp_path: Path
) -> None:
    model, tokenizer = load_model(small_model_dir, lora=True, device="cpu")
    wanted = r"row 0: column 'solution' is missing; the row has 'question', 'answer'.*load_problems"
    for given in (published["GSM8K"], Dataset.from_list(published["GSM8K"])):
        with pytest.raises(ValueError, match=f"train: {wanted}"):
            sft_trainer(model, tokenizer, given, output_dir=tmp_path / "run")
        with pytest.raises(ValueError, match=f"eval: {wanted}"):
            sft_trainer(model, tokenizer, [OWN], eval_problems=given, output_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("value", [5, ["It is 4."], {"text": "It is 4."}, True])
@pytest.mark.parametrize("column", ["question", "solution", "answer"])
def test_a_cell_of_another_type_is_named(column: str, value: Any, tokenizer: Any) -> None:
    kind = type(value).__name__
    for use in ("sft", "prompts", "show_samples"):
        with pytest.raises(ValueError, match=rf"row 0, column '{column}': expected text.*{kind}"):
            USES[use]([{**OWN, column: value}], tokenizer)


def test_nulls_are_counted_and_a_missing_answer_says_what_stands_for_unknown(
    tokenizer: Any,
) -> None:
    with pytest.raises(ValueError, match="no row is left; dropped: 1 with null as solution"):
        USES["sft"]([{**OWN, "solution": None}], tokenizer)
    with pytest.raises(ValueError, match=r"column 'answer' is missing.*\"\" says that it is not"):
        USES["sft"]([{"question": "2 + 2?", "solution": "It is 4."}], tokenizer)
    unknown, known = ({**OWN, "answer": answer} for answer in (None, ""))
    assert list(USES["sft"]([unknown], tokenizer)) == list(USES["sft"]([known], tokenizer))


@pytest.mark.parametrize("use", ["sft", "multiple_choice", "dpo", "grpo", "classification"])
def test_no_rows_are_told_from_dropped_rows(use: str, tokenizer: Any) -> None:
    with pytest.raises(ValueError, match="train: there are no rows"):
        USES[use]([], tokenizer)
    with pytest.raises(ValueError, match="train: there are no rows"):
        USES[use]((row for row in ()), tokenizer)


def test_a_generator_of_problems_is_read_once(tokenizer: Any, small_model_dir: Path) -> None:
    model, own = load_model(small_model_dir, device="cpu")
    found = worked_answers(model, own, (OWN for _ in range(3)), max_new_tokens=1)
    assert len(found) == 3


@pytest.mark.parametrize("turn", [{"content": None}, {"content": ""}, {}, {"content": []}])
@pytest.mark.parametrize("role", ["user", "assistant"])
def test_a_turn_without_text_is_counted_or_named_never_trained(
    turn: Any, role: str, tokenizer: Any
) -> None:
    turns = {"user": {"content": "2 + 2?"}, "assistant": {"content": "4"}, role: turn}
    row = {"messages": [{"role": name, **said} for name, said in turns.items()]}
    wanted = f"with an empty {role} turn|column 'content' is missing"
    with pytest.raises(ValueError, match=wanted):
        USES["sft"]([row], tokenizer)
    with pytest.raises(ValueError, match=wanted):
        USES["show_samples"]([row], tokenizer)


def test_a_null_beside_tool_calls_stays_what_it_is(tokenizer: Any) -> None:
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": 2}}}
    turns = [
        {"role": "user", "content": "2 + 2?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "4"},
        {"role": "assistant", "content": "4"},
    ]
    with pytest.raises(ValueError, match="tool_calls"):  # this template does not write them
        USES["sft"]([{"messages": turns}], tokenizer)


def test_the_model_answers_problems_that_have_no_worked_solution(
    published: Any, tokenizer: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    made = Prompts.of(published["GSM8K"], tokenizer, name="train", max_tokens=999)
    assert len(made.prompts) == 3
    assert made.columns([0])["answer"] == [published["GSM8K"][0]["answer"]]
