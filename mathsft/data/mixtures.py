"""Mixing data sets so that two mixtures can be compared.

A mixture says how many rows come from each data set. What a model gains from it depends just as
much on how long it is trained. So `mix_datasets` draws exactly the requested numbers of rows, and
`training_plan` compares the steps, the batch and the passes over the data of several mixtures.
"""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from numbers import Integral, Real
from typing import Any

import numpy as np
from datasets import Dataset, concatenate_datasets

from mathsft.checks import Rule, at_least, check_number, check_numbers
from mathsft.data.contamination import questions_in, rows_asking
from mathsft.data.messages import keys_of, type_with
from mathsft.data.problems import load_problems
from mathsft.data.row_counts import refuse_stream
from mathsft.data.rows import asked
from mathsft.data.table import in_schema
from mathsft.processes import say


def mix_datasets(
    parts: Mapping[str, int] | Mapping[str, float],
    *,
    test: Dataset | Sequence[Dataset] | None,
    datasets: Mapping[str, Dataset] | None = None,
    total: int | None = None,
    seed: int = 0,
) -> Dataset:
    """Mix and shuffle data sets: ``mix_datasets({"mathqa": 90, "gsm8k": 10}, test=…)``.

    Rows are drawn without repetition. The same seed draws the same rows from a data set, whatever
    else is in the mixture: a draw of 400 rows is part of a draw of 1,500. Nothing is copied: the
    mixture is an index into the data sets, so they may be larger than memory. Every row keeps its
    ``source``. Problems, chats and prompts may be mixed for `sft_trainer`; a column that a row
    does not have is None.

    Args:
        parts: number of rows of each data set, as counts (whole numbers) or weights (fractions).
        test: the data set or data sets for the test. A mixture that asks one of their questions
            is refused. The comparison uses a problem's question, a prompt, or the user's turns
            of a chat. If there is no test, pass None explicitly.
        datasets: data sets by the names in ``parts``. A name that is missing here is loaded by
            ``load_problems`` with its defaults. So pass a data set here if it is read in another
            way (MathQA's clean reading) or was changed after loading (``add_choices``).
        total: number of rows in all, only with weights. Each part gets its share, rounded to a
            whole row, largest remainders first. Default: as many as the data sets allow.
        seed: for the draw and the order, a whole number from 0 up. The global random state is
            not touched.

    Raises:
        ValueError: no part, or a part without rows; counts mixed with weights; too few rows; a
            data set in another schema; a test question in the mixture.
    """
    check_number("mix: seed", seed, Rule(at_least(0).holds, "a whole number from 0 up"))
    check_numbers({"total": total}, where="mix: ")
    given = dict(datasets or {})
    if unknown := sorted(given.keys() - parts.keys()):
        raise ValueError(f"mix: datasets has {unknown[0]!r}, which is not among parts: {parts}")
    sources = {name: given[name] if name in given else load_problems(name) for name in parts}
    for name, rows in sources.items():
        refuse_stream(rows, name=f"mix: {name}")
        if not isinstance(rows, Dataset) or not in_schema(rows.features):
            found = getattr(rows, "features", None) or type(rows).__name__
            raise ValueError(
                f"mix: {name!r} is not in the schema of load_problems: {found}. Read it with "
                "load_problems, also from a file; from a DatasetDict, give one split"
            )
    counts = _counts(parts, {name: len(rows) for name, rows in sources.items()}, total)
    alike = _with_one_type(sources)
    drawn = [_draw(alike[name], count, seed=seed) for name, count in counts.items()]
    mixture = concatenate_datasets(drawn)
    mixture = _draw(mixture, len(mixture), seed=seed)
    tested = _refuse_test_rows(mixture, test)
    shares = ", ".join(f"{name} {n:,} ({n / len(mixture):.1%})" for name, n in counts.items())
    say(f"mix: {len(mixture):,} rows, seed {seed}: {shares}; {tested}")
    return mixture


def _with_one_type(sources: Mapping[str, Dataset]) -> dict[str, Dataset]:
    """Give each column one type, or raise ValueError; a missing key of messages becomes null."""
    found: dict[str, Any] = {}
    for rows in sources.values():
        for column, kind in rows.features.items():
            keys, known = keys_of(kind), keys_of(found.get(column, kind))
            if (keys is None) != (known is None):
                raise ValueError(
                    f"mix: {column!r} holds texts in some data sets and messages in others; a "
                    "column can hold only one of the two: give all data sets in one form"
                )
            if keys is None and kind != found.get(column, kind):
                raise ValueError(
                    f"mix: {column!r} holds numbers in some data sets and true or false in "
                    "others: leave out the problems or the labelled answers"
                )
            found[column] = kind if keys is None else type_with(kind, keys | (known or set()))
    return {name: _cast(rows, found) for name, rows in sources.items()}


def _cast(rows: Dataset, types: Mapping[str, Any]) -> Dataset:
    for column, kind in rows.features.items():
        if kind != types[column]:
            rows = rows.cast_column(column, types[column])
    return rows


def _draw(rows: Dataset, count: int, *, seed: int) -> Dataset:
    """Draw ``count`` of ``rows`` in random order: an index in memory, nothing on disk."""
    return rows.select(np.random.default_rng(seed).permutation(len(rows))[:count])


def _counts(
    parts: Mapping[str, int] | Mapping[str, float], there: Mapping[str, int], total: int | None
) -> dict[str, int]:
    """Return the number of rows of each part, from counts or from weights."""
    counted = [isinstance(share, Integral) for share in parts.values()]
    if not parts or any(counted) != all(counted) or not all(map(_is_number, parts.values())):
        raise ValueError(
            f"mix: {dict(parts)}: give a count for every part (whole numbers), or a weight for "
            "every part (fractions, such as 0.5)"
        )
    if not all(0 < share < float("inf") for share in parts.values()):
        raise ValueError(f"mix: {dict(parts)}: every part needs a count or a weight above 0")
    if all(counted):
        if total is not None:
            raise ValueError(f"mix: total={total} needs weights; {dict(parts)} are counts")
        counts = {name: int(count) for name, count in parts.items()}
    else:
        # Exact decimals as written: 0.1 is one tenth, and 0.7 + 0.2 + 0.1 is exactly 1.
        exact = {name: Fraction(str(weight)) for name, weight in parts.items()}
        whole = sum(exact.values())
        if total is not None and (not isinstance(total, Integral) or total < 1):
            raise ValueError(f"mix: total={total!r}: give a whole number of rows, 1 or more")
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
                f"mix: {count:,} rows of {name!r} requested, but it has {there[name]:,}. Request "
                "fewer; for more passes over the same rows, train more optimiser steps"
            )
        if count < 1:
            raise ValueError(
                f"mix: no row of {name!r} in a total of {total}: give it a larger weight, or more "
                f"rows in all ({', '.join(f'{n} has {k:,}' for n, k in there.items())})"
            )
    return counts


def _is_number(share: object) -> bool:
    return isinstance(share, Real) and not isinstance(share, bool)


def _refuse_test_rows(mixture: Dataset, test: Dataset | Sequence[Dataset] | None) -> str:
    """Raise if a question of ``test`` is in ``mixture``; else return what was compared."""
    if test is None:
        return "not compared with any test"
    refuse_stream(test, name="mix: test")
    tests = [test] if isinstance(test, Dataset) else list(test)
    if not all(isinstance(part, Dataset) for part in tests):
        raise ValueError(
            "mix: test must be a data set of load_problems, a list of them, or None; found "
            f"{tests[0]!r:.60}. From a DatasetDict, give one split"
        )
    rows = sum(map(len, tests))
    apart = {
        question
        for part in tests
        for texts in questions_in(part, name="mix's test")
        for question in texts
    }
    if not rows:
        raise ValueError("mix: test has no rows; say test=None if there is no test")
    if found := rows_asking(mixture, apart, name="mix"):
        first = mixture[found[0]]
        raise ValueError(
            f"mix: {len(found):,} of {len(mixture):,} rows ask a question of the test, the first "
            f"from {first['source']!r}: {asked(first)[0]!r:.100}. Remove them from the data "
            "set first: without_test_rows(data_set, test)"
        )
    return f"no row asks one of the {rows:,} test questions"


def training_plan(
    mixtures: Mapping[str, Dataset],
    *,
    max_steps: int,
    per_device_train_batch_size: int,
    gradient_accumulation_steps: int = 1,
    world_size: int = 1,
) -> Any:
    """Return a table of what ``max_steps`` optimiser steps mean for each of ``mixtures``.

    One line per mixture (pandas): ``rows``, ``steps``, ``batch`` (rows per step: the product of
    ``per_device_train_batch_size``, ``gradient_accumulation_steps`` and ``world_size``
    processes), ``rows seen``, ``passes`` over the mixture, and how many of the rows seen come
    from each source, on average over the order. Train with these numbers and
    ``dataloader_drop_last=True``: then a pass leaves out the rows that do not fill a batch, and
    all steps have the same size. The exception is gradient accumulation: transformers ends each
    pass with a shorter step of the batches that are left. ``short steps`` counts these steps. To
    have none, choose a number of rows that is a multiple of ``batch``.

    Raises ValueError for no mixture, no steps, or a mixture smaller than a batch.
    """
    import pandas

    check_number("max_steps", max_steps, at_least(1))
    check_number("per_device_train_batch_size", per_device_train_batch_size, at_least(1))
    check_numbers(
        {
            "gradient_accumulation_steps": gradient_accumulation_steps,
            "world_size": world_size,
        }
    )
    together = per_device_train_batch_size * world_size
    batch = together * gradient_accumulation_steps
    if not mixtures:
        raise ValueError("training_plan: 0 mixtures: give one or more")
    lines = {}
    for name, mixture in mixtures.items():
        if len(mixture) < batch:
            raise ValueError(
                f"training_plan: {name!r} has {len(mixture)} rows, fewer than a batch of {batch}"
            )
        parts = len(mixture) // together  # batches per pass; a step accumulates several
        steps_a_pass = -(-parts // gradient_accumulation_steps)
        passes, steps_left = divmod(max_steps, steps_a_pass)
        seen = together * (passes * parts + steps_left * gradient_accumulation_steps)
        sources = mixture.select_columns("source").to_pandas()["source"].value_counts()
        lines[name] = {
            "rows": len(mixture),
            "steps": max_steps,
            "batch": batch,
            "short steps": passes * (parts % gradient_accumulation_steps > 0),
            "rows seen": seen,
            "passes": round(seen / len(mixture), 2),
            **{f"from {source}": round(seen * n / len(mixture)) for source, n in sources.items()},
        }
    return pandas.DataFrame(lines.values(), index=list(lines)).convert_dtypes().fillna(0)
