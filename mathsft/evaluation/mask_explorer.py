"""A page piece on which a reader moves a slider and sees which tokens a token sees.

It is one piece of HTML with its own style and script: it needs no network and no other file, and
several of them on a page do not disturb one another. Colours come from the page, so it can be read
on light and on dark ones.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from mathsft.checks import at_least, check_number
from mathsft.models.forest import TokenForest


@dataclass(frozen=True)
class MaskExplorer:
    """What `mask_explorer` makes. A notebook shows it; ``html`` is the piece for any page."""

    html: str

    def _repr_html_(self) -> str:
        return self.html

    def __repr__(self) -> str:
        return "a mask explorer: a notebook shows it, and its html can be put on any page"


def mask_explorer(
    forests: TokenForest | Sequence[TokenForest],
    tokenizer: Any,
    *,
    names: Sequence[str] | None = None,
    kind: str = "row",
    look: int | None = None,
) -> MaskExplorer:
    """Show with two sliders which tokens each token of a layout sees.

    One slider chooses the row, the other the token that looks. What it sees is blue, by the
    rule of every layout: token i sees token j exactly when ``j <= i < end[j]``. Each document, and
    each branch of a tree, begins on a line of its own. The keyboard's arrows move the sliders, and
    screen readers say what is seen. Without JavaScript the first row is shown with the first view.

    A row of 100 tokens takes about 4 kB, so choose a few short rows.

    Args:
        forests: a layout, or several; each of their rows is one position of the first slider.
        tokenizer: the one whose ids the layouts hold.
        names: what each row is called; default: "row 1", "row 2", … (with ``kind``).
        kind: what a row is, such as "question"; for the slider's label.
        look: the token of the first row that looks at first; default: the row's last one.

    Raises ValueError if there is no row or one without tokens, if there are not as many names as
    rows, or if there is no token ``look``.
    """
    from jinja2 import Environment, PackageLoader, select_autoescape

    some = [forests] if isinstance(forests, TokenForest) else list(forests)
    rows = [pair for one in some for pair in zip(one.input_ids, one.end, strict=True)]
    if not rows or not all(ids for ids, _ in rows):
        raise ValueError("forests: there is no row to show, or a row has no token")
    if names is not None and len(names) != len(rows):
        raise ValueError(f"names: {len(names)} names for {len(rows)} rows; give one for each")
    first = rows[0][0]
    look = len(first) - 1 if look is None else look
    check_number("look", look, at_least(0))
    if look >= len(first):
        raise ValueError(f"look={look}: the first row has the tokens 0 to {len(first) - 1}")
    environment = Environment(
        loader=PackageLoader("mathsft.evaluation"), autoescape=select_autoescape(["html", "j2"])
    )
    page = environment.get_template("mask_explorer.html.j2").render(
        kind=kind,
        look=look,
        rows=[
            {
                "name": names[number] if names else f"{kind} {number + 1}",
                "end": end,
                "parts": _parts(ids, end, tokenizer, look if number == 0 else None),
            }
            for number, (ids, end) in enumerate(rows)
        ],
    )
    return MaskExplorer(page)


def _parts(
    ids: Sequence[int], end: Sequence[int], tokenizer: Any, look: int | None
) -> list[dict[str, Any]]:
    """The stretches of a row without a branch, and how many branches each is away from its root."""
    parents = [next((k for k in range(j - 1, -1, -1) if end[k] > j), None) for j in range(len(ids))]
    children = Counter(parents)
    starts: list[int] = []
    level: list[int] = []
    for j, parent in enumerate(parents):
        forks = parent is not None and children[parent] > 1
        starts.append(starts[-1] if starts and parent == j - 1 and not forks else j)
        level.append(0 if parent is None else level[parent] + forks)
    return [
        {
            "level": level[first],
            "tokens": [{"text": _text(tokenizer, ids[j]), "shown": _shown(j, end, look)}
                       for j in same],
        }
        for first, same in groupby(range(len(ids)), key=starts.__getitem__)
    ]  # fmt: skip


def _text(tokenizer: Any, token: int) -> str:
    return str(tokenizer.decode([token])).replace("\n", "↵")


def _shown(j: int, end: Sequence[int], look: int | None) -> str:
    if look is None or not j <= look < end[j]:
        return ""
    return "seen looks" if j == look else "seen"
