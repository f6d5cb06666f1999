"""What ``mathsft compare`` prints: each set of questions, its pairs, and what was not compared."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from mathsft.checks import unknown_name
from mathsft.evaluation.compare import compare_some
from mathsft.evaluation.results import Result, apart, by_questions, read_results


def comparison_lines(
    sources: Sequence[str | Path], *, base: str | None = None, metric: str | None = None
) -> Iterator[str]:
    """The lines of a comparison of all results in files and folders.

    Results of the same task, questions and number of examples are compared; each such group is
    shown. What cannot be compared, and each damaged file, is named, and the rest goes on.

    Args:
        sources: results, folders of them, or folders that the harness wrote.
        base: the name of the run that all others are compared with; None: all pairs.
        metric: as in `mathsft.evaluation.compare.compare_all`.

    Raises:
        ValueError: no results; no run of that name; a metric that no group of results has. At the
            end, if files were left out: a script that reads only the exit status must know it.
    """
    found, damaged = _read(sources)
    if not found:
        where = ", ".join(map(str, sources))
        what = f"no whole result. {'; '.join(damaged)}" if damaged else "there are no results"
        raise ValueError(f"{where}: {what}")
    for told in damaged:
        yield f"left out: {told}"
    labels = {id(result): label for label, result in found}
    groups = [
        apart(group, [labels[id(result)] for result in group])
        for group in by_questions([result for _, result in found])
    ]
    names = dict.fromkeys(result.name for group in groups for result in group)
    if base is not None and base not in names:
        raise ValueError(unknown_name("run", base, names))
    alone: list[Result] = []
    compared = 0
    lacking: list[str] = []
    for group in groups:
        yield from map(str, group)
        pairs, why, lacks = _compared(group, base, metric)
        yield from pairs
        yield from (f"not compared: {reason}" for reason in why)
        compared += len(pairs)
        alone += [] if pairs else group
        lacking += [lacks] * bool(lacks)
    if metric is not None and lacking and not compared:
        raise ValueError(lacking[0])
    if alone and len(groups) > 1:
        yield f"{len(alone):,} of {len(found):,} results are compared with nothing: " + "; ".join(
            f"{result.name} ({result.task})" for result in alone
        )
    if damaged:
        raise ValueError(
            f"{len(damaged):,} of the files were left out, as the first lines say; the rest was "
            "compared"
        )


def _compared(
    group: list[Result], name: str | None, metric: str | None
) -> tuple[list[str], list[str], str]:
    """A line for each pair of a group, why others have none, and the error of a lacking metric."""
    base = next((result for result in group if result.name == name), None)
    if name is not None and base is None:
        return [], [f"{name} answered other questions"], ""
    if len(group) == 1:
        return [], ["no other run answered these questions"], ""
    try:
        found, refused = compare_some(group, base=base, metric=metric)
    except ValueError as error:
        return [], [str(error)], str(error)
    holm = [f"; p = {pair.p_holm:.2g} after Holm" if len(found) > 1 else "" for pair in found]
    return [f"{pair.line()}{more}" for pair, more in zip(found, holm, strict=True)], refused, ""


def _read(sources: Sequence[str | Path]) -> tuple[list[tuple[str, Result]], list[str]]:
    """Each result with what to call its source, and what is wrong with damaged files."""
    paths = [Path(source) for source in sources]
    last = [path.resolve().name for path in paths]
    labels = last if len({*last}) == len(last) else [str(path) for path in paths]
    found, damaged = [], []
    for path, label in zip(paths, labels, strict=True):
        try:
            some, told = read_results(path)
        except ValueError as error:  # of a file that is given alone
            if len(paths) == 1:
                raise
            some, told = [], [str(error)]
        found += [(label, result) for result in some]
        damaged += told
    return found, damaged
