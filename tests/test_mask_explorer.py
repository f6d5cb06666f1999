"""The mask explorer shows the mask that training uses: opened in a real browser."""

import html
import re
from pathlib import Path
from typing import Any

import pytest

from mathsft import TokenForest, forest_mask, load_model
from mathsft.evaluation.mask_explorer import mask_explorer

pytestmark = pytest.mark.same_everywhere


class Words:
    """A tokenizer whose tokens need escaping, have spaces, and end lines."""

    texts = ("<b>", " &", ' "a"', "\n", "</script>", " x", " y", "z", "é", " '")

    def decode(self, ids: list[int]) -> str:
        return "".join(self.texts[i % 10] for i in ids)


def sequence(*ids: int) -> dict[str, list[int]]:
    return {"input_ids": [*ids, 0], "labels": [*ids, 0]}


# Two documents and one, side by side; and a tree of four choices, two of which begin alike.
PACKED = TokenForest(
    [sequence(0, 1, 2, 3), sequence(4, 5, 6), sequence(7, 8)], rows=[[0, 1], [2]], share=False
)
TREE = TokenForest([sequence(0, 1, *choice) for choice in ([2, 3], [2, 4], [5], [6, 7, 8])])
ROWS = [
    pair for forest in (PACKED, TREE) for pair in zip(forest.input_ids, forest.end, strict=True)
]


def mask(end: list[int]) -> list[list[bool]]:
    batch = PACKED.tensors(pad_token_id=0)["end"].new_tensor([end])
    seen: list[list[bool]] = forest_mask(batch)[0, 0].tolist()
    return seen


def test_the_first_view_needs_no_script_and_tokens_are_text() -> None:
    page = mask_explorer([PACKED, TREE], Words(), look=5).html
    start = page[page.index('class="row"') : page.index("<svg")]
    tokens = re.findall(r'<span(?: class="([a-z ]*)")?>(.*?)</span>', start)
    assert [html.unescape(text) for _, text in tokens] == [
        Words().decode([i]).replace("\n", "↵") for i in PACKED.input_ids[0]
    ]
    assert ["seen" in shown for shown, _ in tokens] == mask(PACKED.end[0])[5]
    assert ["looks" in shown for shown, _ in tokens] == [n == 5 for n in range(len(tokens))]
    assert page.count("<script>") == page.count("</script>") == 1
    assert not re.search(r"\b(src|href|id)=|url\(|https?:", page)


@pytest.mark.parametrize(
    ("forests", "more", "message"),
    [
        ([], {}, "no row to show"),
        (PACKED, {"names": ["one"]}, "1 names for 2 rows"),
        (PACKED, {"look": 7}, "the first row has the tokens 0 to 6"),
        (PACKED, {"look": -1}, "look"),
    ],
)
def test_what_cannot_be_shown_is_an_error(forests: Any, more: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mask_explorer(forests, Words(), **more)


@pytest.mark.slow
def test_what_the_browser_marks_is_the_row_of_the_mask(chromium: Any, tmp_path: Path) -> None:
    _, tokenizer = load_model("tiny")
    real = TokenForest(
        [sequence(*tokenizer(text)["input_ids"]) for text in ("Ann has 3 pears.", "Bo has 4.")],
        share=False,
    )
    pieces = [
        mask_explorer([PACKED, TREE], Words(), kind="question"),
        mask_explorer(real, tokenizer),
    ]
    path = tmp_path / "page.html"
    path.write_text(
        '<!doctype html><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        + "<hr>".join(piece.html for piece in pieces),
        encoding="utf-8",
    )
    page, errors = chromium.new_page(viewport={"width": 390, "height": 844}), []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda line: errors.append(line.text) if line.type == "error" else None)
    page.on("request", lambda asked: errors.append(asked.url) if asked.url[:4] != "file" else None)
    page.goto(path.as_uri())
    first, second = page.locator("[data-mask-explorer]").all()

    def marked(box: Any, kind: str) -> list[bool]:
        shown = box.locator(".row:visible .part span")
        has = "(spans, kind) => spans.map((span) => span.classList.contains(kind))"
        found: list[bool] = shown.evaluate_all(has, kind)
        return found

    untouched = marked(second, "seen")
    assert untouched == mask(real.end[0])[-1]
    for row, (ids, end) in enumerate(ROWS):
        first.locator("input.pick").fill(str(row))
        for looks in range(len(ids)):
            first.locator("input.token").fill(str(looks))
            assert marked(first, "seen") == mask(end)[looks]
            assert marked(first, "looks") == [n == looks for n in range(len(ids))]
            assert (
                f"sees {sum(mask(end)[looks])} of {len(ids)}" in first.locator(".told").inner_text()
            )
    assert marked(second, "seen") == untouched  # the explorers do not disturb one another
    slider = first.locator("input.token")
    slider.focus()
    page.keyboard.press("ArrowLeft")
    assert marked(first, "looks")[len(ROWS[-1][0]) - 2]
    assert f"token {len(ROWS[-1][0]) - 2}," in slider.get_attribute("aria-valuetext")
    first.locator(".row:visible .part span").nth(1).click()
    assert marked(first, "seen") == mask(ROWS[-1][1])[1]
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert not errors
