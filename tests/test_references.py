"""Reference answers: read like any answer, or refused with an error that names the row."""

from pathlib import Path
from typing import Any

import pytest

from mathsft.data.answers import reference_answer
from mathsft.data.problems import load_problems
from mathsft.evaluation import worked
from mathsft.evaluation.worked import worked_answers
from mathsft.models.loading import load_model

RAW = "He has 9 + 9 = <<9+9=18>>18 pens.\n#### 18"


@pytest.mark.parametrize(
    "answer",
    ["18", "18 pens", "$18.00", "18%", "Rs. 18", r"\frac{36}{2}", r"$\boxed{18}$", "x = 18", "(18)",
     "9 + 9 = 18", "18 cm^2", "1.8e1", "18\u200b", "１８", RAW, 18, 18.0],
)  # fmt: skip
def test_a_reference_is_read_in_all_its_forms(answer: object) -> None:
    assert reference_answer(answer) == "18"


UNREADABLE = [
    *("3 pens and 2 pencils", "18 or 19", "3:4", "x > 18", "18 2", "eighteen", "5!", "nan"),
    *(r"\boxed{\pi}", "#### none", "9 + 9 = 18\nso 19"),
]


@pytest.mark.parametrize("answer", [*UNREADABLE, float("inf")])
def test_an_unreadable_reference_is_an_error(answer: object) -> None:
    with pytest.raises(ValueError, match="an answer that cannot be read as one number: '"):
        reference_answer(answer)


@pytest.mark.parametrize("answer", ["", "  ", None, [], True])
def test_a_missing_reference_is_an_error(answer: object) -> None:
    with pytest.raises(ValueError, match="no answer to compare with"):
        reference_answer(answer)


@pytest.fixture(scope="module")
def loaded(small_model_dir: Path) -> Any:
    return load_model(small_model_dir)


@pytest.fixture
def writing(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Make `worked_answers` find the given answer, whatever the model writes."""

    def says(text: str) -> None:
        monkeypatch.setattr(worked, "extract_answer", lambda _: text)

    return says


@pytest.mark.parametrize("answer", ["18 pens", RAW, r"\frac{36}{2}", "$18", "18.0"])
def test_a_right_answer_is_right_for_every_form_of_the_reference(
    loaded, writing, answer: str
) -> None:
    problem = {**load_problems("tiny-gsm", split="test", limit=1)[0], "answer": answer}
    for said, right in (("18", True), ("36/2", True), ("17", False), ("", False)):
        writing(said)
        (result,) = worked_answers(*loaded, [problem], max_new_tokens=2)
        assert result["correct"] is right


@pytest.mark.parametrize("answer", [*UNREADABLE, "", None])
def test_an_unreadable_reference_names_its_row_before_anything_is_generated(
    loaded, monkeypatch: pytest.MonkeyPatch, answer: str | None
) -> None:
    problems = load_problems("tiny-gsm", split="test", limit=3).to_list()
    problems[2]["answer"] = answer
    monkeypatch.setattr(worked, "generate", lambda *_, **__: pytest.fail("generated"))
    with pytest.raises(ValueError, match=r"problem 2 has .*answer") as error:
        worked_answers(*loaded, problems, max_new_tokens=2)
    assert problems[2]["question"] in str(error.value)
