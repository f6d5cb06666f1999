"""Read rows from any source into the columns of their kind. These are the columns of problems:

| column | type | meaning |
|---|---|---|
| question | string | the bare question |
| solution | string | the worked solution without calculator marks and the ``####`` line |
| answer | string | the final answer in normal form (see ``mathsft.data.answers``), or "" |
| choices | list of string | the choices, or [] |
| label | int64 | the index of the right choice, or -1 |
| source | string | the name of the source or of the file |

Chats, prompts, pairs of answers, labelled answers and groups of answers have columns of their own
(`mathsft.data.rows`). `mathsft.data.readers` lists the formats; `mathsft.data.columns` says what
happens to other columns. Rows passed to a trainer directly go through `mathsft.data.given`.
"""

import random
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datasets import Dataset, IterableDataset

from mathsft.checks import check_numbers
from mathsft.data.conversion import Conversion, streamed
from mathsft.data.mathqa import Reading
from mathsft.data.questions import Questions
from mathsft.data.row_counts import RowCounts
from mathsft.data.rows import FEATURES
from mathsft.data.sources import Origin
from mathsft.data.table import RowWriter, stored
from mathsft.processes import say

__all__ = ["FEATURES", "load_problems", "read_problems"]


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
    """Load ``source`` as rows in the columns of their kind; print what was read and dropped.

    The table above has the columns of problems. Chats (``messages``, ShareGPT, Alpaca), prompts
    with completions, preference pairs and groups are read too, into the columns of
    `mathsft.data.rows`. Converted rows are stored on disk, in the cache of `datasets`, and are
    read from there the next time, unless the source is small (under 8 MB).

    A broken file is an error. A single row that cannot be used is dropped and counted:

    - an empty question, solution or answer; a solution without a number;
    - MathQA options that do not parse, or a label that is none of the choices;
    - a GSM8K test question among instructions;
    - an ASDiv or SVAMP equation that does not give the answer;
    - a conversation without an assistant turn to train, with an empty turn, with content that is
      not text, with a system turn after the first turn, or not begun by the user;
    - a pair of equal answers (`mathsft.data.pairs.answer_key`), a pair whose scores do not prefer
      the chosen one, or a pair with neither a prompt nor a common beginning;
    - a row marked as not to be trained (``weight: 0``, ``train: false``; a chat: ``label: false``).

    These are errors: a missing column, another type than the schema says, an unknown role, and a
    column that may change what a row means (``score``, ``rejected``, ``context`` beside a
    question). Any other column that is not read and not known to be harmless (such as an id) is
    counted in the printed line.

    Args:
        source: ``gsm8k``, ``mathqa`` or ``grade-school-math`` (hub), ``tiny-gsm`` or
            ``tiny-mathqa`` (generated, offline); or the path of a ``.jsonl``, ``.json``,
            ``.parquet`` or ``.csv`` file, also with ``.gz``, in one of the formats of
            `mathsft.data.readers` (for ASDiv and SVAMP, story and question are joined, and the
            equation is the solution), or as saved from this function's result; or any hub
            data set, ``owner/name``, in one of these formats (its default configuration).
        split: ``train``, ``validation`` or ``test``, if the source has it; a file is
            one split, ``train``.
        limit: take at most this many usable rows; None takes all. Without ``seed`` nothing is read
            after them, so the printed counts are those of the rows that were read. The generated
            sources write more than their usual number (4,000 / 500 / 1,000) if the limit is larger.
        seed: shuffle all usable rows before ``limit`` is applied; None keeps the file's
            order. The global random state is neither read nor changed.
        reading: how to read MathQA's options. ``official``: as lm-evaluation-harness does, for
            comparable test results. ``clean``: also reads the rows that the harness's parser
            garbles, for training; repaired, unusable and disputed rows are counted.
        drop_disputed: leave out (and count) MathQA rows whose formula gives another value than
            the labelled choice. For training only: it needs the clean reading and the split
            ``train``, or a file whose name does not begin with "test".
        columns: your own names for columns of a format: ``{"question": "q", "answer": "a"}``
            reads the question from ``q``.
        test_questions: for INSTRUCTION/RESPONSE rows: the GSM8K test questions to drop, as
            a list or the path of a local file. Default: from the hub.
        train_questions: likewise, the GSM8K train questions to look for inside the chat.
            Default: from the hub; if it does not answer, the chat is recognised by its wording.
        streaming: return an `IterableDataset`, which reads the rows again at each pass and never
            holds a whole file. All rows have the form of the first
            one, and the line about dropped rows is printed after each pass. ``seed`` shuffles
            within 10,000 rows at a time, before ``limit``.

    Raises:
        ValueError: unknown source, split or reading; a broken file; no usable row; limit < 1;
            ``drop_disputed`` without the clean reading or outside of ``train``; either of these
            for rows that are not MathQA's; a name in ``columns`` that no format or no row has.
        FileNotFoundError, IsADirectoryError: the path does not lead to a file.
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
    check_numbers({"limit": limit, "seed": seed})  # Python's seed -1 shuffles like 1
    if streaming:
        return streamed(source, limit=limit, seed=seed, **how)
    dataset, tally, origin = _read(source, limit=limit, seed=seed, **how)
    taken = "" if limit is None else f"; {len(dataset):,} taken"
    if limit == len(dataset) and seed is None and not origin.generated:
        taken += ", reading stopped there"
    shuffled = f" (shuffled, seed {seed})" if seed is not None else ""
    say(tally.line(origin.name) + taken + shuffled)
    return dataset


def read_problems(source: str | Path, **arguments: Any) -> tuple[Dataset, Counter[str]]:
    """``load_problems`` without printing; also return the number of dropped rows by reason."""
    given = {**(load_problems.__kwdefaults__ or {}), **arguments}
    del given["streaming"]
    check_numbers({"limit": given["limit"], "seed": given["seed"]})
    dataset, tally, _ = _read(source, **given)
    return dataset, tally.counts()


def _read(
    source: str | Path, *, limit: int | None, seed: int | None, **how: Any
) -> tuple[Dataset, RowCounts, Origin]:
    conversion = Conversion.of(source, limit=limit, whole=seed is not None, **how)

    # The order is that of the file, unless the rows are shuffled: then all of them are needed.
    first = limit if seed is None else None

    def write(path: Path) -> dict[str, Any]:
        with RowWriter(path) as writer:
            for row, kind, where in conversion.rows(first):
                writer.write(row, kind, where=where)
        return vars(conversion.tally)

    dataset, notes = stored(write, conversion.key(first))
    if seed is not None:
        chosen = list(range(len(dataset)))
        random.Random(seed).shuffle(chosen)
        dataset = dataset.select(chosen[:limit])
    return dataset, RowCounts.of(notes), conversion.origin
