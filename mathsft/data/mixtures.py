"""Mixing data sets so that two mixtures can be compared.

A mixture says how many rows come from where; what a model gains from it depends as much on
how long it is trained. So the rows are drawn exactly as asked, and `training_plan` lays the
optimiser steps, the batch and the passes over the data of several mixtures side by side.
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
    """A shuffled mixture, such as ``mix_datasets({"mathqa": 90, "gsm8k": 10}, test=…)``.

    Rows are drawn without repetition. The same seed draws the same rows: of one data set, 400
    rows are among its 1,500, whatever else is in the mixture. Nothing is copied: the
    mixture is an index into the data sets, so these may be larger than memory (the trainers
    then hold the tokens of what they train on). Every row keeps its ``source``. Problems, chats
    and prompts may be mixed for `sft_trainer`; the columns that a row has not are None.

    Args:
        parts: rows of each data set, as counts (whole numbers) or as weights (fractions).
        test: what will be tested on, one data set or several. A mixture that asks one of their
            questions is refused; in a chat the user's turns count, in other rows the prompt.
            None, where there is no test, has to be said.
        datasets: data sets by the names in ``parts``; a name that is not among them goes to
            ``load_problems``, with its defaults. So give here what is read in another way
            (MathQA's clean reading), or was worked on (``add_choices``).
        total: rows in all, with weights; each part gets its share to within a row, the
            largest remainders first. Default: as many as the scarcest data set allows.
        seed: of the drawing and of the order, a whole number from 0 up. The global random
            state is not touched.

    Raises:
        ValueError: no part, or one of no rows; counts and weights mixed; too few rows; a data set
            in another schema; a question of the test in the mixture.
    """
    check_number("mix: seed", seed, Rule(at_least(0).holds, "a whole number from 0 up"))
    check_numbers({"total": total}, where="mix: ")
    given = dict(datasets or {})
    if unknown := sorted(given.keys() - parts.keys()):
        raise ValueError(f"mix: no part asks for {unknown[0]!r} of datasets; parts are {parts}")
    sources = {name: given[name] if name in given else load_problems(name) for name in parts}
    for name, rows in sources.items():
        refuse_stream(rows, name=f"mix: {name}")
        if not isinstance(rows, Dataset) or not in_schema(rows.features):
            found = getattr(rows, "features", None) or type(rows).__name__
            raise ValueError(
                f"mix: {name!r} is not in the schema of load_problems: {found}. Read it with "
                "load_problems, also from a file; of a DatasetDict give one split"
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
    """The data sets with one type a column: a key of messages that only others have is null.

    Raises ValueError for a column that holds texts in one data set and messages in another.
    """
    found: dict[str, Any] = {}
    for rows in sources.values():
        for column, kind in rows.features.items():
            keys, known = keys_of(kind), keys_of(found.get(column, kind))
            if (keys is None) != (known is None):
                raise ValueError(
                    f"mix: {column!r} holds texts in some data sets and messages in others, which "
                    "no column can hold: give all of them in one form"
                )
            found[column] = kind if keys is None else type_with(kind, keys | (known or set()))
    return {name: _cast(rows, found) for name, rows in sources.items()}


def _cast(rows: Dataset, types: Mapping[str, Any]) -> Dataset:
    for column, kind in rows.features.items():
        if kind != types[column]:
            rows = rows.cast_column(column, types[column])
    return rows


def _draw(rows: Dataset, count: int, *, seed: int) -> Dataset:
    """``count`` of ``rows`` in random order: an index in memory, nothing on disk."""
    return rows.select(np.random.default_rng(seed).permutation(len(rows))[:count])


def _counts(
    parts: Mapping[str, int] | Mapping[str, float], there: Mapping[str, int], total: int | None
) -> dict[str, int]:
    """How many rows of each part, from counts or from weights."""
    counted = [isinstance(share, Integral) for share in parts.values()]
    if not parts or any(counted) != all(counted) or not all(map(_is_number, parts.values())):
        raise ValueError(
            f"mix: {dict(parts)}: give a count for every part (whole numbers), or a weight for "
            "every part (fractions, such as 0.5)"
        )
    if not all(0 < share < float("inf") for share in parts.values()):
        raise ValueError(f"mix: {dict(parts)}: every part wants a count or a weight above 0")
    if all(counted):
        if total is not None:
            raise ValueError(f"mix: total={total} goes with weights; {dict(parts)} are counts")
        counts = {name: int(count) for name, count in parts.items()}
    else:
        # Fractions as they are written: 0.1 is one tenth, and 0.7 + 0.2 + 0.1 are one.
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
                f"mix: {count:,} rows of {name!r} wanted, {there[name]:,} there. Ask for fewer; "
                "more passes over the same rows are more optimiser steps, not more rows"
            )
        if count < 1:
            raise ValueError(
                f"mix: no row of {name!r} in a total of {total}: give it a larger weight, or more "
                f"rows in all ({', '.join(f'{n}: {k:,} there' for n, k in there.items())})"
            )
    return counts


def _is_number(share: object) -> bool:
    return isinstance(share, Real) and not isinstance(share, bool)


def _refuse_test_rows(mixture: Dataset, test: Dataset | Sequence[Dataset] | None) -> str:
    """Raises if a question of ``test`` is in ``mixture``; else says what was compared."""
    if test is None:
        return "not compared with any test"
    refuse_stream(test, name="mix: test")
    tests = [test] if isinstance(test, Dataset) else list(test)
    if not all(isinstance(part, Dataset) for part in tests):
        raise ValueError(
            "mix: test wants a data set of load_problems, or a list of them, or None; found "
            f"{tests[0]!r:.60}. Of a DatasetDict give one split"
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
            f"from {first['source']!r}: {asked(first)[0]!r:.100}. Leave them out of the data "
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
    """What training each of ``mixtures`` for ``max_steps`` optimiser steps means, as a table.

    One line a mixture (pandas): ``rows``, ``steps``, ``batch`` (rows a step: of
    ``per_device_train_batch_size``, ``gradient_accumulation_steps`` and ``world_size``
    processes the product), ``rows seen``, ``passes`` over the mixture, and how many of the rows
    seen come from each source, on average over the order. Train with these numbers and
    ``dataloader_drop_last=True``: then a pass leaves out what fills no batch, and no step is
    shorter than another. The exception is gradient accumulation: transformers ends each pass
    with a step of the batches that are left. ``short steps`` counts those; choose rows that are
    a multiple of ``batch`` to have none.

    Raises ValueError for no mixture, no steps, or a mixture smaller than a batch.
    """
    import pandas

    check_number("max_steps", max_steps, at_least(1))
    check_numbers(
        {
            "per_device_train_batch_size": per_device_train_batch_size,
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
        parts = len(mixture) // together  # of a pass; each step takes as many as it accumulates
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
