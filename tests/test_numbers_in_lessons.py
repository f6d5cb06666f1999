"""Every number in a lesson's text is one that the lesson shows, in an output or in its code."""

import json
import re
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytestmark = pytest.mark.same_everywhere

ROOT = Path(__file__).parent.parent
LESSONS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
NUMBER = re.compile(
    r"(?<![\w.,])(\d{1,3}(?:,\d{3})+|\d+)(\.\d+)?(?:e([+-]?\d+))?(?![\w,]*\d)(\s?%)?"
)
# What is no claim about a run: addresses, code, formulas, titles, names of lessons and models.
NO_CLAIM = re.compile(
    r"```.*?```|`[^`]*`|\$\$.*?\$\$|\$[^$\n]+\$|\]\([^)]*\)|https?://\S+|^#.*?$|^    .*?$|<[^>]+>"
    r"|[Ll]essons? \d\d(?:(?:,| and| to) \d\d)*|\*\*\d\.\*\*|Qwen[\w.-]*|\b\d\.\d+B\b|arXiv[: ]\S+"
    r"|\b(?:19|20)\d\d\b",  # years of papers
    re.S | re.M,
)
SMALL = 12  # small whole numbers count things that the reader sees
# Numbers that are no measurement of the lesson, each with its reason.
COMMON = {"95": "the level of the intervals", "0.05": "the level of the tests", "100": "per cent"}
_MATHQA = "counted once on MathQA's validation split, which the course does not ship"
ELSEWHERE: dict[str, dict[str, str]] = {
    "03_mathqa_mixing.ipynb": dict.fromkeys(("190", "4475", "115", "2237", "2238", "589"), _MATHQA),
}


def numbers(text: str) -> list[tuple[str, float, float]]:
    """Each number as written, its value, and half of its last digit's worth; of percentages too."""
    found = []
    for whole, decimals, exponent, percent in NUMBER.findall(text):
        scale = 10.0 ** int(exponent or 0)
        value = float(whole.replace(",", "") + decimals) * scale
        worth = (
            10.0 ** -max(0, len(decimals) - 1) * scale / 2
            if decimals or percent or exponent
            else 0.0
        )
        found.append((whole.replace(",", "") + decimals, value, worth))
    return found


def shown(book: dict) -> list[float]:
    """All numbers in the code and its outputs; a share also as a percentage."""
    texts = []
    for cell in (cell for cell in book["cells"] if cell["cell_type"] == "code"):
        texts.append("".join(cell["source"]))
        for output in cell["outputs"]:
            data = output.get("data", {})
            parts = [output.get("text", ""), data.get("text/plain", "")]
            parts.append(re.sub("<[^>]+>", " ", "".join(data.get("text/html", ""))))
            parts.append(output.get("metadata", {}).get("image/png", {}).get("alt", ""))
            texts += ["".join(part) for part in parts]
    text = re.sub(r"(?<=\d)_(?=\d)", "", "\n".join(texts))
    values = [
        float(n.replace(",", "")) for n in re.findall(r"\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?", text)
    ]
    return values + [100 * value for value in values if value <= 1]


def values_of(prose: str, own: Path) -> list[float]:
    """The numbers of a lesson, and of each lesson that the text names."""
    named = set(re.findall(r"(?<=[Ll]esson )\d\d", prose))
    paths = [own, *(path for path in LESSONS if path.name[:2] in named - {own.name[:2]})]
    return [value for path in paths for value in _shown(path)]


@cache
def _shown(path: Path) -> list[float]:
    return shown(json.loads(path.read_text(encoding="utf-8")))


def unfounded(prose: str, values: list[float], allowed: set[str]) -> list[str]:
    """The numbers in the prose that are not among the values, rounded as the prose rounds."""
    return [
        written
        for written, value, worth in numbers(NO_CLAIM.sub(" ", prose))
        if written not in allowed
        and not (value == int(value) and value <= SMALL and not worth)
        and not any(abs(value - other) <= worth * 1.001 for other in values)
    ]


@pytest.mark.parametrize("path", LESSONS, ids=lambda p: p.name)
def test_every_number_in_the_text_is_shown_by_the_lesson(path: Path) -> None:
    book = json.loads(path.read_text(encoding="utf-8"))
    texts = ["".join(c["source"]) for c in book["cells"] if c["cell_type"] == "markdown"]
    allowed = {*COMMON, *ELSEWHERE.get(path.name, {})}
    missing = {
        text[:60]: left
        for text in texts
        if (left := unfounded(text, values_of(text, path), allowed))
    }
    assert not missing


@given(st.floats(0.1, 99.9).map(lambda value: round(value, 1)))
def test_a_number_that_is_off_by_its_last_digit_is_found(value: float) -> None:
    assert unfounded(f"It went to {value} %.", [value], set()) == []
    assert unfounded(f"It went to {value} %.", [value + 0.11], set()) == [f"{value}"]
    assert unfounded(f"It went to {value:.0f} %.", [value], set()) == []
