"""The plots of the lessons. Each function draws one figure and returns it.

Figures are narrow, so that a phone, which shrinks them to its width, shows legible letters.

Names of runs are not read as formulas, which matplotlib does with two dollar signs.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle
from textwrap import wrap
from typing import Any

from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mathsft.evaluation.intervals import Accuracy

_INK, _LIGHT, _WARM = "#1b6ca8", "#9bb8d0", "#c8553d"
_WIDTH = 5.2  # inches: 10 points are about 10 pixels on a phone that is 390 wide
_SMALL = 9  # points of the smallest letters
_COLOURS = (_INK, _WARM, "#5b8c5a", "#8e6c8a", "#b08c2c", "#555555")


def _figure(width: float, height: float) -> tuple[Figure, Any]:
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(width, height), layout="constrained")
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _wrapped(names: Iterable[str], width: int) -> list[str]:
    """Names of runs in lines of at most so many characters; single words are not divided."""
    return ["\n".join(wrap(name, width, break_long_words=False)) or name for name in names]


def plot_loss(
    log_history: Sequence[Mapping[str, float]],
    *,
    ylabel: str = "loss per trained token",
    chance: float | None = None,
) -> Figure:
    """Plot the training loss in nats by optimiser step, from ``trainer.state.log_history``.

    If the log has evaluation losses, they are drawn too. ``chance`` is a dashed line: the loss of
    guessing (multiple choice: the logarithm of the number of choices).
    """
    figure, axes = _figure(_WIDTH, 3)
    for key, label, colour in (("loss", "training", _INK), ("eval_loss", "held out", _WARM)):
        points = [(row["step"], row[key]) for row in log_history if key in row]
        if points:
            axes.plot(*zip(*points, strict=True), color=colour, label=label)
    if chance is not None:
        axes.axhline(chance, color="black", linestyle="--", label="chance")
    axes.set(xlabel="optimiser step", ylabel=ylabel, ylim=(0, None))
    axes.legend(frameon=False)
    return figure


def plot_packing(rows: Sequence[Sequence[int]], *, max_length: int, title: str = "") -> Figure:
    """Plot rows of documents as bars, one bar for each row.

    ``rows[r]`` lists the lengths in tokens of row r's documents. Neighbouring documents differ in
    shade. The white rest, up to ``max_length``, is padding.
    """
    figure, axes = _figure(_WIDTH, 0.7 + 0.14 * len(rows))
    for y, lengths in enumerate(rows):
        left = 0
        for number, length in enumerate(lengths):
            colour = _INK if number % 2 == 0 else _LIGHT
            axes.barh(y, length, left=left, height=0.85, color=colour)
            left += length
    axes.set(xlim=(0, max_length), xlabel="tokens", ylabel="row", title=title, yticks=[])
    axes.invert_yaxis()
    return figure


def plot_mask(mask: Any, tokens: Sequence[str]) -> Figure:
    """Plot ``mask``, (L, L): row i, column j is true if token i sees token j.

    ``tokens`` are the L texts to write at the rows; the columns have numbers only.
    """
    size = min(1.2 + 0.15 * len(tokens), _WIDTH + 0.3)
    figure, axes = _figure(size, size)
    axes.imshow(
        [[bool(seen) for seen in row] for row in mask], cmap=ListedColormap(["white", _INK])
    )
    axes.set_yticks(
        range(len(tokens)),
        [repr(text)[1:-1] for text in tokens],
        fontsize=max(5, min(_SMALL, 230 / len(tokens))),
    )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="sees the token of this number", ylabel="this token")
    return figure


def plot_accuracy(
    results: Mapping[str, Accuracy], *, chance: Mapping[str, float] | None = None, title: str = ""
) -> Figure:
    """Plot accuracies as bars with intervals, and a dashed line for each bar in ``chance``.

    ``chance`` has shares (0 to 1) by bar name: guessing does not give the same for all questions.
    """
    figure, axes = _figure(min(1.6 + 1.1 * len(results), _WIDTH + 0.3), 3)
    for x, result in enumerate(results.values()):
        # A bound at 0 or 1 may miss the accuracy by a last digit, and no length is negative.
        below, above = result.accuracy - result.low, result.high - result.accuracy
        error = [[max(0.0, below)], [max(0.0, above)]]
        axes.bar(x, result.accuracy, 0.6, color=_LIGHT)
        axes.errorbar(x, result.accuracy, error, color=_INK, capsize=5)
        axes.annotate(f"{result.accuracy:.1%}", (x, result.high), (0, 4), ha="center",
                      textcoords="offset points")  # fmt: skip
    shares = chance or {}
    guesses = [(x, shares[name]) for x, name in enumerate(results) if name in shares]
    for x, share in guesses:
        axes.hlines(share, x - 0.45, x + 0.45, color="black", linestyle="--", label="chance")
    if guesses:
        # Outside, where no bar and no label can be behind it.
        first = (part[:1] for part in axes.get_legend_handles_labels())
        figure.legend(*first, loc="outside lower right", frameon=False)
    letters = max(7, 50 // max(1, len(results)))
    axes.set_xticks(range(len(results)), _wrapped(results, letters), parse_math=False)
    axes.tick_params(axis="x", labelsize=_SMALL)
    axes.set(ylim=(0, 1.12), yticks=[0, 0.25, 0.5, 0.75, 1], ylabel="accuracy", title=title)
    return figure


def plot_intervals(
    results: Mapping[str, Accuracy],
    *,
    chance: float | None = None,
    title: str = "",
    colour: str = _INK,
) -> Figure:
    """Plot accuracies as points on their intervals, a line for each, the first on top.

    Use it for many runs, or long names. ``chance`` (0 to 1) is a dashed line.
    """
    names = _wrapped(results, 18)
    figure, axes = _figure(_WIDTH, 1 + sum(0.18 + 0.17 * (name.count("\n") + 1) for name in names))
    for y, result in enumerate(results.values()):
        axes.plot([result.low, result.high], [y, y], color=colour, linewidth=2, alpha=0.5)
        axes.plot(result.accuracy, y, "o", color=colour)
        axes.annotate(f"{result.accuracy:.1%}", (result.high, y), (5, 0), va="center",
                      textcoords="offset points", fontsize=_SMALL)  # fmt: skip
    if chance is not None:
        axes.axvline(chance, color="black", linestyle="--", linewidth=1)
        axes.annotate("chance", (chance, 1), (0, 2), xycoords=("data", "axes fraction"),
                      ha="center", textcoords="offset points", fontsize=_SMALL)  # fmt: skip
    axes.set_yticks(range(len(results)), names, parse_math=False)
    axes.tick_params(axis="y", labelsize=_SMALL)
    axes.invert_yaxis()
    highest = max((result.high for result in results.values()), default=1.0)
    axes.set(xlim=(0, min(1.08, highest + 0.12)), xlabel="accuracy")
    axes.set_title(title, pad=12)
    return figure


def plot_curves(
    curves: Mapping[str, Mapping[int, Accuracy | float]],
    *,
    xlabel: str = "training rows",
    ylabel: str = "accuracy",
    chance: float | None = None,
) -> Figure:
    """Plot shares by size, one line for each of ``curves``: ``{"MathQA": {100: share, 1500: …}}``.

    The axis of sizes is logarithmic, since each doubling costs twice the rows. An `Accuracy` is
    drawn with its interval, a plain number without one; ``chance`` is a dashed line.
    """
    figure, axes = _figure(_WIDTH, 3)
    sizes = sorted({size for curve in curves.values() for size in curve})
    for colour, (name, curve) in zip(cycle(_COLOURS), curves.items(), strict=False):
        points = sorted(curve.items())
        x = [size for size, _ in points]
        y = [share.accuracy if isinstance(share, Accuracy) else share for _, share in points]
        axes.plot(x, y, "o-", color=colour, label=name)
        for size, share in points:
            if isinstance(share, Accuracy):
                axes.vlines(size, share.low, share.high, color=colour)
    if chance is not None:
        axes.axhline(chance, color="black", linestyle="--", label="chance")
    axes.set_xscale("log")
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.minorticks_off()
    axes.set(xlabel=xlabel, ylabel=ylabel, ylim=(0, 1.05))
    for label in axes.legend(frameon=False).get_texts():
        label.set_parse_math(False)
    return figure
