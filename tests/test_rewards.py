"""Rewards: right and wrong answers of real problems, forms, lengths, and what models tried."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mathsft.data.answers import extract_answer, same_answer, split_final_line
from mathsft.generation.claims import boxes, claimed_answer
from mathsft.generation.reward_calls import RewardError
from mathsft.generation.reward_checks import check_judge, known_completions
from mathsft.generation.rewards import (
    AnswerFormat,
    FinalAnswer,
    JudgedBy,
    Length,
    soft_overlong,
)
from mathsft.generation.weighted import Weighted

THOUGHT = "<think>3 * 6 = 18</think><answer>18</answer>"
HACKS = {
    "five lines": "\n".join(f"#### {n}" for n in (18, 1, 2, 3, 4)),
    "five lines, all right": "\n".join(["#### 18"] * 5),
    "five in one line": "#### 18 #### 1 #### 2",
    "a list": "#### 18, 19, 20, 21",
    "a choice": "#### 18 or 19",
    "a sum of guesses": "#### 18 19 20",
    "five boxes": "".join(f"\\boxed{{{n}}}" for n in (18, 1, 2, 3, 4)),
    "a list in a box": "\\boxed{18, 19}",
    "a box in a box": "\\boxed{19 \\boxed{18}}",
    "a box and an empty line": "\\boxed{18}\n####",
    "a box and a line": "\\boxed{18}\n#### 17",
    "five answers": "<think>a</think>" + "".join(f"<answer>{n}</answer>" for n in (18, 1, 2)),
    "five lines in tags": "<think>a</think><answer>#### 18\n#### 19</answer>",
    "a list in tags": "<think>a</think><answer>18 19</answer>",
    "repeated tags": THOUGHT * 2,
    "repeated thoughts": "<think>a</think><think>b</think><answer>18</answer>",
    "thought in capitals": "<THINK>a</THINK>" + THOUGHT,
    "an answer in a thought": "<think><answer>18</answer></think>",
    "a thought that is not closed": "<think>#### 18",
    "an answer that is not closed": "<think>a</think><answer>18",
    "a box that is not closed": "\\boxed{18",
    "not marked": "The answer is 18",
    "empty": "",
    "spaces": " \n",
    "an empty line": "####",
    "empty tags": "<think></think><answer></answer>",
}


def right(text: Any, answer: Any = "18", **settings: Any) -> float:
    (value,) = FinalAnswer(**settings)(completions=[text], answer=[answer])
    return value


@pytest.fixture(scope="module")
def real_rows(data_dir: Path) -> list[dict[str, str]]:
    lines = (data_dir / "gsm8k" / "train.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_all_real_solutions_are_right_and_those_of_other_problems_are_wrong(
    real_rows: list[dict[str, str]],
) -> None:
    texts = [row["answer"] for row in real_rows]
    assert FinalAnswer()(completions=texts, answer=texts) == [1.0] * len(texts)
    texts = texts[:3000]
    others = texts[1:] + texts[:1]
    expected = [
        float(same_answer(extract_answer(text), extract_answer(other)))
        for text, other in zip(texts, others, strict=True)
    ]
    assert FinalAnswer()(completions=others, answer=texts) == expected
    assert 0 < sum(expected) < len(texts) / 20


def test_other_marks_of_real_solutions_are_right_too(real_rows: list[dict[str, str]]) -> None:
    for row in real_rows[:300]:
        work, answer = split_final_line(row["answer"])
        for text in (
            f"{work}\n\\boxed{{{answer}}}",
            f"{work} $\\boxed{{\\text{{{answer}}}}}$.",
            f"<think>{row['answer']}</think><answer>{answer}</answer>",
            f"{row['answer']}</think>\n#### ${answer}.00",  # the prompt opened the thought
            f"### Step 1\n#### Step 2\n{work}\n#### **{answer}**",
        ):
            assert right(text, answer) == 1.0, text


@pytest.mark.parametrize("text", HACKS.values(), ids=HACKS)
def test_a_hack_is_not_a_right_answer(text: str) -> None:
    assert right(text) == right(text, "x^2+1") == 0.0


@pytest.mark.parametrize("style", ["think", "boxed", "hashes"])
def test_the_judges_pass_the_test_of_known_completions(
    style: Any, real_rows: list[dict[str, str]]
) -> None:
    shares = check_judge(FinalAnswer(), real_rows[:100], style=style)
    kinds = ("wrong number", "empty", "five answers", "repeated")
    assert shares == dict.fromkeys(kinds, 0.0)
    assert check_judge(
        Weighted([FinalAnswer(), AnswerFormat(style)], [1.0, 0.1]), real_rows[:20], style=style
    ) == dict.fromkeys(kinds, 0.0)


def test_a_judge_that_is_fooled_is_found_and_its_shares_can_be_read(
    real_rows: list[dict[str, str]],
) -> None:
    def lenient(completions: list[str], answer: list[str], **_: Any) -> list[float]:
        numbers = [split_final_line(text)[1] for text in answer]
        return [float(n in text) for n, text in zip(numbers, completions, strict=True)]

    with pytest.raises(ValueError, match=r"'lenient' gives a wrong .* kind '(wrong|five)"):
        check_judge(lenient, real_rows[:50])
    shares = check_judge(lenient, real_rows[:50], allowed=1)
    assert shares["five answers"] == shares["repeated"] == 1.0
    assert shares["empty"] == 0.0
    assert set(known_completions(real_rows[0])) == {"right", *shares}


PIECES = st.lists(
    st.sampled_from(
        ["####", "###", "#", " ", "\n", "18", "1", "7", ".", ",", "$", "-", "=", "x", "Step", "or",
         "\\boxed{", "18}", "}", "{", "**", "_", "%", "/", "2. Add", "\\frac{36}{2}", "as", "("]
    ),
    max_size=8,
).map("".join)  # fmt: skip


@given(PIECES, st.sampled_from(["\n#### 18", "\\boxed{18}"]), PIECES)
def test_what_is_rewarded_is_also_right_in_an_evaluation(
    before: str, answer: str, after: str
) -> None:
    text = before + answer + after
    if right(text):
        assert same_answer(extract_answer(text), "18")


def test_expressions_are_compared_by_math_verify() -> None:
    assert right("so \\boxed{1 + x^2}", "x^2+1") == 1.0
    assert right("<answer>$x^2 + 2 - 1$</answer>", "$x^2+1$") == 1.0
    assert right("#### \\frac{\\sqrt{3}}{2}", "the side is \\boxed{\\sqrt{3}/2}") == 1.0
    two = "\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}"
    assert right(f"\\boxed{{{two}}}", two) == 1.0
    for listed in (
        "x^2+1, x^2-1",
        "x^2+1 = x^2-1",
        "x^2+1 \\text{ or } 2",
        "x^2+1; 2",
        "x^2+1 2 3",
    ):
        assert right(f"\\boxed{{{listed}}}", "x^2+1") == 0.0
    assert right("\\boxed{x^2 - 1}", "x^2+1") == right("\\boxed{?}", "x^2+1") == 0.0


@pytest.mark.parametrize(
    "reference", ["", None, "no solution", "5 or 6", "\\boxed{}", "18 19", "10:30"]
)
def test_a_reference_that_cannot_be_read_is_an_error_that_names_the_row(reference: Any) -> None:
    with pytest.raises(
        RewardError, match=r"'final_answer', row 1 \(prompt 'Why\?'\): .*answer|ref"
    ):
        FinalAnswer()(completions=["#### 1"] * 2, answer=["1", reference], prompts=["?", "Why?"])
    with pytest.raises(RewardError, match="no column 'answer'; they have solution"):
        FinalAnswer()(completions=["#### 1"], solution=["1"])


def test_a_completion_that_was_cut_is_not_right_if_that_is_known() -> None:
    two = {"completions": ["#### 18"] * 2, "answer": [18, 18], "completion_ids": [[5, 2], [5, 7]]}
    assert FinalAnswer()(**two) == [1.0, 1.0]  # as under TRL: nothing says it
    assert FinalAnswer()(**two, ended=[True, False]) == [1.0, 0.0]
    assert FinalAnswer(require_ended=False)(**two, ended=[True, False]) == [1.0, 1.0]
    assert FinalAnswer(eos_token_id=2)(**two) == [1.0, 0.0]
    assert FinalAnswer(eos_token_id=[2, 7])(**two) == [1.0, 1.0]
    with pytest.raises(RewardError, match="give a column 'ended', or eos_token_id"):
        FinalAnswer(require_ended=True)(**two)


def test_messages_are_judged_by_the_assistants_last_text() -> None:
    said = {"role": "assistant", "content": "#### 18"}
    tool = {"role": "tool", "content": "#### 17"}
    assert right([said]) == right([tool, said]) == right([said, tool]) == 1.0
    assert right([{"role": "assistant", "content": [{"type": "text", "text": "#### 18"}]}]) == 1.0
    assert right([{"role": "assistant", "content": None, "tool_calls": []}]) == 0.0
    thought = {"role": "assistant", "content": "<answer>18</answer>", "reasoning_content": "3 * 6"}
    assert AnswerFormat("think")(completions=[[thought]]) == [1.0]
    for wrong in ([], [tool], 18, None):
        with pytest.raises(RewardError, match="must be a text or a list with a message"):
            right(wrong)


PART = st.text(alphabet="ab 1\n<>/{}#$.", max_size=12)


@given(PART, PART, PART, PART)
def test_the_tags_are_the_whole_text_once_and_filled(a: str, b: str, c: str, d: str) -> None:
    text = f"{a}<think>{b}</think>{c}<answer>{d}</answer>"
    expected = not a.strip() and not c.strip() and bool(b.strip() and d.strip())
    form = AnswerFormat("think")
    assert form(completions=[text, text + text]) == [float(expected), 0.0]
    assert form(completions=[text.replace("</think>", "", 1)]) == [0.0]


@given(PART)
def test_a_form_holds_of_its_own_text_and_no_longer_when_it_is_repeated(part: str) -> None:
    line = part.replace("\n", " ").replace("#", "")
    hashes = f"work\n#### {line}"
    filled = float(bool(line.strip()))
    assert AnswerFormat("hashes")(completions=[hashes, f"{hashes}\n{hashes}"]) == [filled, 0.0]
    assert AnswerFormat("hashes")(completions=[f"{hashes}\nmore", f"work {hashes[5:]}"]) == [0, 0]
    content = part.replace("{", "").replace("}", "")
    boxed = f"work $\\boxed{{{content}}}$."
    filled = float(bool(content.strip()))
    assert boxes(boxed) == [(6, len(boxed) - 2, content)]
    assert AnswerFormat("boxed")(completions=[boxed, boxed * 2, f"{boxed} x"]) == [filled, 0, 0]


@pytest.mark.parametrize("style", ["think", "boxed", "hashes"])
def test_an_empty_completion_has_no_form(style: Any) -> None:
    assert AnswerFormat(style)(completions=["", " \n", style]) == [0.0] * 3
    assert claimed_answer("") == ""


def test_soft_overlong_is_that_of_trl_at_each_length() -> None:
    from trl.rewards import get_soft_overlong_punishment

    ids = [[1] * n for n in range(60)]
    for most, cache in ((50, 20), (50, 50), (50, 1), (50, 0)):
        theirs = get_soft_overlong_punishment(most, cache)(completion_ids=ids)
        ours = soft_overlong(most, cache)(completions=[""] * 60, completion_ids=ids)
        assert ours == pytest.approx(theirs, abs=1e-12)


def test_a_cosine_falls_slowly_at_first_and_is_minus_one_at_the_end() -> None:
    ids = [[1] * n for n in (0, 10, 15, 20, 30, 99)]
    values = Length(10, 30, shape="cosine")(completions=[""] * 6, completion_ids=ids)
    assert values == pytest.approx([0, 0, (2**-0.5 - 1) / 2, -0.5, -1, -1])


def test_a_judge_sees_prompts_and_completions_of_the_whole_batch() -> None:
    judge = JudgedBy(lambda prompts, completions: [len(p + completions[0]) for p in prompts])
    assert judge(completions=["ab", "c"], prompts=["x", "yz"]) == [3, 4]
    with pytest.raises(ValueError, match="'judged_by' needs the prompts"):
        judge(completions=["ab"])
