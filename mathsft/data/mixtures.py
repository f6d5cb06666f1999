"""Mixing data sets so that two mixtures can be compared.

A mixture says how many rows come from where; what a model gains from it depends as much on
how long it is trained. So the rows are drawn exactly as asked, and `training_plan` lays the
optimiser steps, the batch and the passes over the data of several mixtures side by side.
"""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from datasets import Dataset, concatenate_datasets

from mathsft.data.overlap import question_key, questions_in
from mathsft.data.problems import FEATURES, load_problems


def mix(
    parts: Mapping[str, int] | Mapping[str, float],
    *,
    test: Dataset | Sequence[Dataset] | None,
    datasets: Mapping[str, Dataset] | None = None,
    total: int | None = None,
    seed: int = 0,
) -> Dataset:
    """A shuffled mixture, ``mix({"mathqa": 1500, "gsm8k": 1500}, test=…)``; prints its shares.

    Rows are drawn without repetition. The same seed draws the same rows: of one data set, 400
    rows are among its 1,500, whatever else is in the mixture. Nothing is copied: the
    mixture is an index into the data sets, so these may be larger than memory. Every row
    keeps its ``source``.

    Args:
        parts: rows of each data set, as counts (whole numbers) or as weights (fractions).
        test: what will be tested on, one data set or several. A mixture that asks one of their
            questions is refused. None, where there is no test, has to be said.
        datasets: data sets by the names in ``parts``; a name that is not among them goes to
            ``load_problems`` (split ``train``).
        total: rows in all, with weights; each part gets its share to within a row, the
            largest remainders first. Default: as many as the scarcest data set allows.
        seed: of the drawing and of the order. The global random state is not touched.

    Raises:
        ValueError: no part, or one of no rows; counts and weights mixed; too few rows; a data set
            in another schema; a question of the test in the mixture.
    """
    given = dict(datasets or {})
    if unknown := sorted(given.keys() - parts.keys()):
        raise ValueError(f"mix: no part asks for {unknown[0]!r} of datasets; parts are {parts}")
    sources = {name: given[name] if name in given else load_problems(name) for name in parts}
    for name, rows in sources.items():
        if rows.features != FEATURES:
            raise ValueError(
                f"mix: {name!r} has the columns {', '.join(rows.column_names)}, not those of "
                "load_problems. Read it with load_problems, or from a file it wrote"
            )
    counts = _counts(parts, {name: len(rows) for name, rows in sources.items()}, total)
    drawn = [
        sources[name].shuffle(seed=seed).select(range(count)) for name, count in counts.items()
    ]
    mixture = concatenate_datasets(drawn).shuffle(seed=seed)
    tested = _refuse_test_rows(mixture, test)
    shares = ", ".join(f"{name} {n:,} ({n / len(mixture):.1%})" for name, n in counts.items())
    print(f"mix: {len(mixture):,} rows, seed {seed}: {shares}; {tested}")
    return mixture


def _counts(
    parts: Mapping[str, int] | Mapping[str, float], there: Mapping[str, int], total: int | None
) -> dict[str, int]:
    """How many rows of each part, from counts or from weights."""
    kinds = {type(share) for share in parts.values()}
    if kinds not in ({int}, {float}):
        raise ValueError(
            f"mix: {dict(parts)}: give a count for every part (whole numbers), or a weight for "
            "every part (fractions, such as 0.5)"
        )
    if not all(0 < share < float("inf") for share in parts.values()):
        raise ValueError(f"mix: {dict(parts)}: every part wants a count or a weight above 0")
    if kinds == {int}:
        if total is not None:
            raise ValueError(f"mix: total={total} goes with weights; {dict(parts)} are counts")
        counts = {name: int(count) for name, count in parts.items()}
    else:
        # Fractions as they are written: 0.1 is one tenth, and 0.7 + 0.2 + 0.1 are one.
        exact = {name: Fraction(str(weight)) for name, weight in parts.items()}
        whole = sum(exact.values())
        if total is None:
            total = min(int(there[name] * whole / weight) for name, weight in exact.items())
        shares = {name: total * weight / whole for name, weight in exact.items()}
        counts = {name: int(share) for name, share in shares.items()}
        largest = sorted(shares, key=lambda name: counts[name] - shares[name])
        for name in largest[: total - sum(counts.values())]:
            counts[name] += 1
    for name, count in counts.items():
        if count > there[name]:
            raise ValueError(
                f"mix: {count:,} rows of {name!r} wanted, {there[name]:,} there. Ask for fewer; "
                "more passes over the same rows are more optimiser steps, not more rows"
            )
        if count < 1:
            raise ValueError(f"mix: no row of {name!r} in a total of {total}; ask for more")
    return counts


def _refuse_test_rows(mixture: Dataset, test: Dataset | Sequence[Dataset] | None) -> str:
    """Raises if a question of ``test`` is in ``mixture``; else says what was compared."""
    if test is None:
        return "not compared with any test"
    tests = [test] if isinstance(test, Dataset) else list(test)
    rows = sum(map(len, tests))
    asked = {question_key(question) for part in tests for question in questions_in(part)}
    if not rows:
        raise ValueError("mix: test has no rows; say test=None if there is no test")
    found = [i for i, q in enumerate(questions_in(mixture)) if question_key(q) in asked]
    if found:
        first = mixture[found[0]]
        raise ValueError(
            f"mix: {len(found):,} of {len(mixture):,} rows ask a question of the test, the first "
            f"from {first['source']!r}: {first['question']!r:.100}. Leave them out of the data "
            "set before: without_test_rows(data_set, test)"
        )
    return f"none asks one of the {rows:,} test questions"


def training_plan(
    mixtures: Mapping[str, Dataset],
    *,
    max_steps: int,
    per_device_train_batch_size: int,
    gradient_accumulation_steps: int = 1,
    world_size: int = 1,
) -> Any:
    """What training each mixture for ``max_steps`` optimiser steps means, as a pandas table.

    One line a mixture: ``rows``, ``steps``, ``batch`` (rows a step, over all ``world_size``
    processes), ``rows seen`` (steps x batch), and ``passes`` over the whole mixture; then how
    many of the rows seen come from each source. Steps and batch are the same in every line:
    that is what makes the lines comparable. Train with these numbers and
    ``dataloader_drop_last=True``, or the last batch of each pass is a smaller one.

    Raises ValueError for no mixture, no steps, or a mixture smaller than a batch.
    """
    import pandas

    batch = per_device_train_batch_size * gradient_accumulation_steps * world_size
    if not mixtures or max_steps < 1 or batch < 1:
        raise ValueError(f"training_plan: {len(mixtures)} mixtures, {max_steps} steps of {batch}")
    lines = {}
    for name, mixture in mixtures.items():
        if len(mixture) < batch:
            raise ValueError(
                f"training_plan: {name!r} has {len(mixture)} rows, fewer than a batch of {batch}"
            )
        sources = mixture.select_columns("source").to_pandas()["source"].value_counts()
        seen = max_steps * batch
        lines[name] = {
            "rows": len(mixture),
            "steps": max_steps,
            "batch": batch,
            "rows seen": seen,
            "passes": round(seen / len(mixture), 2),
            **{f"from {source}": round(seen * n / len(mixture)) for source, n in sources.items()},
        }
    return pandas.DataFrame(lines.values(), index=list(lines)).convert_dtypes().fillna(0)
