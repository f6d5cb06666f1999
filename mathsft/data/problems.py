"""Rows from any source, in the columns of their kind: first of all maths problems.

| column | type | meaning |
|---|---|---|
| question | string | the bare question |
| solution | string | the worked text, without calculator marks and without the ``####`` line |
| answer | string | the final answer in normal form (see ``mathsft.data.answers``), or "" |
| choices | list of string | the choices, or [] |
| label | int64 | the index of the right choice, or -1 |
| source | string | the source's name, or the file's |

Chats, prompts, pairs of answers and groups of answers have columns of their own
(`mathsft.data.rows`). `mathsft.data.readers` lists the formats; `mathsft.data.columns` says what
happens to further columns. Rows given to a trainer directly go through `given_rows`.
"""

import random
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from datasets import Dataset, IterableDataset

from mathsft.checks import check_numbers
from mathsft.data.cells import from_arrow
from mathsft.data.chat import read_chat
from mathsft.data.conversion import Conversion, streamed
from mathsft.data.mathqa import Reading
from mathsft.data.questions import Questions
from mathsft.data.row_counts import RowCounts
from mathsft.data.rows import CHAT, FEATURES, KINDS, PROBLEM, PROMPT, check_columns, kind_of
from mathsft.data.table import RowWriter, stored
from mathsft.processes import say

__all__ = ["FEATURES", "load_problems", "read_problems"]

_WORKED = (PROBLEM.name, CHAT.name, PROMPT.name)


def check_rows(rows: Any, *, name: str) -> None:
    """Raise ValueError for the name of a file, or for a data set's splits, in place of rows."""
    if isinstance(rows, str | Path):
        raise ValueError(f"{name}: rows are expected, found a text: load_problems({str(rows)!r})")
    if isinstance(rows, Mapping):
        raise ValueError(
            f"{name}: rows are expected, found a mapping with {', '.join(map(str, rows))}: of a "
            "data set's splits give one, such as rows['train']"
        )


def given_row(
    row: Mapping[str, Any],
    *,
    where: str,
    counted: set[str],
    arrow: bool = False,
    kinds: Collection[str] = _WORKED,
) -> Mapping[str, Any]:
    """The row as a trainer reads it.

    Conversations, pairs and groups come back in the columns of their kind (`mathsft.data.rows`).
    Which turns may follow each other is left to the chat template. A problem, or a text with its
    completion, comes back unchanged.

    Args:
        where: names the row in errors.
        counted: gets the columns and keys that hold something and are not read.
        arrow: the row is one of an Arrow table (`mathsft.data.cells.from_arrow`).
        kinds: names of the kinds that the trainer can train.

    Raises:
        UnusableRowError: the row says not to train it.
        ValueError: what `load_problems` raises for the same row of a file; a row of another kind.
    """
    row = from_arrow(dict(row)) if arrow else row
    kind = kind_of(row, where=where)
    parts: tuple[str, ...] = ("messages",)
    if kind is PROMPT and isinstance(row["prompt"], list):
        kind, parts = CHAT, ("prompt", "completion")
    if kind.name not in kinds:
        wanted = [f"{name} (with {' and '.join(KINDS[name].told_by)})" for name in kinds]
        raise ValueError(
            f"{where}: a row of the kind {kind.name!r}; this objective trains {', '.join(wanted)}. "
            f"Found {row!r:.80}"
        )
    if kind is CHAT:
        read = kind.columns | set(parts)
        check_columns(row, where=where, read=read, counted=counted, kind=kind)
        return read_chat(row, parts, where=where, counted=counted, any_role=True)
    if kind.talk:
        return kind.read(row, where=where, counted=counted, any_role=True)
    check_columns(row, where=where, read=kind.columns, counted=counted, kind=kind)
    return row


def load_problems(
    source: str | Path,
    *,
    split: str = "train",
    limit: int | None = None,
    seed: int | None = None,
    reading: Reading = "official",
    drop_disputed: bool = False,
    columns: Mapping[str, str] | None = None,
    test_questions: Questions | None = None,
    train_questions: Questions | None = None,
    streaming: bool = False,
) -> Dataset | IterableDataset:
    """Rows of ``source`` in the columns of their kind; prints what was read and dropped.

    The table above has the columns of problems. Chats (``messages``, ShareGPT, Alpaca), prompts
    with completions, preference pairs and groups are read too, into the columns of
    `mathsft.data.rows`. Rows that are converted lie on disk, in the cache of `datasets`, and are
    read from there the next time, unless the source is small (under 8 MB).

    A broken file is an error. A single row that cannot be used is dropped and counted:
    an empty question, solution or answer; a solution without a number; MathQA options that
    do not parse, or a label that is none of the choices; a GSM8K test question among
    instructions; an ASDiv or SVAMP equation that does not give the answer; a conversation with no
    assistant turn to train, an empty turn, content that is no text, a system turn after the first,
    or one that the user does not begin; a pair of equal answers, or without a common beginning
    where there is no prompt; a row that says not to train it (``weight: 0``,
    ``train: false``, ``label: false``). A missing column, another type than the schema says, an
    unknown role, or a column that may change what a row means (``score``, ``rejected``, ``context``
    beside a question) is an error. Any other column that is not read and not known to be harmless
    (such as an id) is counted in the printed line.

    Args:
        source: ``gsm8k``, ``mathqa`` or ``grade-school-math`` (hub), ``tiny-gsm`` or
            ``tiny-mathqa`` (generated, offline); or the path of a ``.jsonl``, ``.json``,
            ``.parquet`` or ``.csv`` file, also with ``.gz``, in one of the formats of
            `mathsft.data.readers` (of ASDiv and SVAMP the story and the question are joined, and
            the equation is the solution), or as this function's result was saved; or any hub
            data set, ``owner/name``, in one of these formats (its default configuration).
        split: ``train``, ``validation`` or ``test``, as the source has them; a file is
            one split, ``train``.
        limit: take so many of the usable rows; None takes all. The generated sources write
            more than their usual number (4,000 / 500 / 1,000) where it asks for more.
        seed: shuffle all usable rows before ``limit`` is applied; None keeps the file's
            order. The global random state is neither read nor changed.
        reading: MathQA's options. ``official``: as lm-evaluation-harness reads them, for
            tests that are to be comparable. ``clean``: also the rows that its parser
            garbles, for training; repaired, unusable and disputed rows are counted.
        drop_disputed: leave out (and count) MathQA rows whose formula, executed, gives another
            value than the labelled choice. For training only: it wants the clean reading
            and the split ``train``, or a file whose name does not begin with "test".
        columns: your own names for columns of a format: ``{"question": "q", "answer": "a"}``
            reads the question from ``q``.
        test_questions: for INSTRUCTION/RESPONSE rows: the GSM8K test questions to drop, as
            a list or the path of a local file. Default: from the hub.
        train_questions: likewise the questions to look for inside the chat. Default: from
            the hub; where it does not answer, the chat is told by its wording.
        streaming: give an `IterableDataset`, which reads the rows anew at each pass and never
            holds a file (JSON arrays are refused). All rows have the form of the first one, and
            the line about what was dropped is printed after a pass. ``seed`` shuffles among
            10,000 rows at a time, before ``limit``.

    Raises:
        ValueError: unknown source, split or reading, a file that is broken, no usable row,
            limit < 1, ``drop_disputed`` where it must not be, either for rows not MathQA's; a
            name in ``columns`` that no format or no row has.
        FileNotFoundError, IsADirectoryError: a path that leads to no file.
        ConnectionError: the hub does not answer.
    """
    how = {
        "split": split,
        "reading": reading,
        "drop_disputed": drop_disputed,
        "columns": columns,
        "test_questions": test_questions,
        "train_questions": train_questions,
    }
    check_numbers({"limit": limit, "seed": seed})  # Python shuffles by -1 as by 1
    if streaming:
        return streamed(source, limit=limit, seed=seed, **how)
    dataset, tally, name = _read(source, limit=limit, seed=seed, **how)
    taken = f"; {len(dataset):,} taken" if limit is not None else ""
    shuffled = f" (shuffled, seed {seed})" if seed is not None else ""
    say(tally.line(name) + taken + shuffled)
    return dataset


def read_problems(source: str | Path, **arguments: Any) -> tuple[Dataset, Counter[str]]:
    """As ``load_problems``, silent: the problems, and the number of dropped rows by reason."""
    given = {**(load_problems.__kwdefaults__ or {}), **arguments}
    del given["streaming"]
    check_numbers({"limit": given["limit"], "seed": given["seed"]})
    dataset, tally, _ = _read(source, **given)
    return dataset, tally.counts()


def _read(
    source: str | Path, *, limit: int | None, seed: int | None, **how: Any
) -> tuple[Dataset, RowCounts, str]:
    conversion = Conversion.of(source, limit=limit, whole=seed is not None, **how)

    def write(path: Path) -> dict[str, Any]:
        with RowWriter(path) as writer:
            for row, kind, where in conversion.rows():
                writer.write(row, kind, where=where)
        return vars(conversion.tally)

    dataset, notes = stored(write, conversion.key())
    chosen = list(range(len(dataset)))
    if seed is not None:
        random.Random(seed).shuffle(chosen)
        dataset = dataset.select(chosen[:limit])
    elif limit is not None:
        dataset = dataset.select(range(min(limit, len(dataset))))
    return dataset, RowCounts.of(notes), conversion.origin.name
