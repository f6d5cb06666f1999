"""Maths problems from any source, in one schema; chats and prompts in theirs.

| column | type | meaning |
|---|---|---|
| question | string | the bare question |
| solution | string | the worked text, without calculator marks and without the ``####`` line |
| answer | string | the final answer in normal form (see ``mathsft.data.answers``), or "" |
| choices | list of string | the choices, or [] |
| label | int64 | the index of the right choice, or -1 |
| source | string | the source's name, or the file's |

Rows with ``messages``, or ``prompt`` and ``completion``, keep columns of their own:
`mathsft.data.chat`. What becomes of further columns: `mathsft.data.columns`.
"""

import random
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, get_args

from datasets import Dataset, Features, List, Value

from mathsft.data.chat import CHAT_FEATURES, PROMPT_FEATURES, chat_features
from mathsft.data.formulas import AGREES, DISAGREES
from mathsft.data.grade_school_math import Questions, unwrap
from mathsft.data.mathqa import Reading
from mathsft.data.readers import read_row, reader_for
from mathsft.data.schemas import UnusableRowError, from_instruction, from_mathqa
from mathsft.data.sources import Origin, open_source
from mathsft.data.tally import Tally
from mathsft.data.word_problems import from_asdiv, from_svamp
from mathsft.numbers import check_numbers
from mathsft.processes import say

FEATURES = Features(
    {
        "question": Value("string"),
        "solution": Value("string"),
        "answer": Value("string"),
        "choices": List(Value("string")),
        "label": Value("int64"),
        "source": Value("string"),
    }
)
_KINDS = (FEATURES, CHAT_FEATURES, PROMPT_FEATURES)


def load_problems(
    source: str | Path,
    *,
    split: str = "train",
    limit: int | None = None,
    seed: int | None = None,
    reading: Reading = "official",
    drop_disputed: bool = False,
    test_questions: Questions | None = None,
    train_questions: Questions | None = None,
) -> Dataset:
    """Problems of ``source`` in the one schema; prints one line with what was read and dropped.

    Rows with ``messages``, or with ``prompt`` and ``completion`` (texts, or lists of messages),
    come back in the columns of `mathsft.data.chat`, for `sft_trainer`.

    A broken file is an error. A single row that cannot be used is dropped and counted:
    an empty question, solution or answer; a solution without a number; MathQA options that
    do not parse, or a label that is none of the choices; a GSM8K test question among
    instructions; an ASDiv or SVAMP equation that does not give the answer; a conversation with no
    assistant turn to train, an empty turn, content that is no text, a system turn after the first,
    or one that the user does not begin; a row that says not to train it (``weight: 0``,
    ``train: false``, ``label: false``). A missing column, another type than the schema says, an
    unknown role, or a column that may change what a row means (``score``, ``rejected``, ``context``
    beside a question) is an error. Any other column that is not read and not known to be harmless
    (such as an id) is counted in the printed line.

    Args:
        source: ``gsm8k``, ``mathqa`` or ``grade-school-math`` (hub), ``tiny-gsm`` or
            ``tiny-mathqa`` (generated, offline), or the path of a ``.json``, ``.jsonl`` or
            ``.parquet`` file in the schema of GSM8K, of INSTRUCTION/RESPONSE, of MathQA, of
            ASDiv or SVAMP (the story and the question are joined, and the equation is the
            solution), of this function's result, or of a chat; or any hub data set,
            ``owner/name``, in one of these schemas (its default configuration).
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
        test_questions: for INSTRUCTION/RESPONSE rows: the GSM8K test questions to drop, as
            a list or the path of a local file. Default: from the hub.
        train_questions: likewise the questions to look for inside the chat. Default: from
            the hub; where it does not answer, the chat is told by its wording.

    Raises:
        ValueError: unknown source, split or reading, a file that is broken, no usable row,
            limit < 1, ``drop_disputed`` where it must not be, either for rows not MathQA's.
        FileNotFoundError, IsADirectoryError: a path that leads to no file.
        ConnectionError: the hub does not answer.
    """
    dataset, tally, origin = _read(
        source,
        split=split,
        limit=limit,
        seed=seed,
        reading=reading,
        drop_disputed=drop_disputed,
        test_questions=test_questions,
        train_questions=train_questions,
    )
    taken = f"; {len(dataset):,} taken" if limit is not None else ""
    shuffled = f" (shuffled, seed {seed})" if seed is not None else ""
    say(tally.line(origin.name) + taken + shuffled)
    return dataset


def read_problems(source: str | Path, **arguments: Any) -> tuple[Dataset, Counter[str]]:
    """As ``load_problems``, silent: the problems, and the number of dropped rows by reason."""
    dataset, tally, _ = _read(source, **{**(load_problems.__kwdefaults__ or {}), **arguments})
    return dataset, tally.counts()


def _read(
    source: str | Path,
    *,
    split: str,
    limit: int | None,
    seed: int | None,
    reading: Reading,
    drop_disputed: bool,
    test_questions: Questions | None,
    train_questions: Questions | None,
) -> tuple[Dataset, Tally, Origin]:
    if reading not in get_args(Reading):
        raise ValueError(f"reading={reading!r}: give {' or '.join(map(repr, get_args(Reading)))}")
    a_test = split != "train" or Path(source).stem.lower().startswith("test")
    if drop_disputed and (reading == "official" or a_test):
        raise ValueError(
            f"{source}: drop_disputed is for training: it wants reading='clean' (here "
            f"{reading!r}) and the split 'train' (here {split!r}), or a file that is not named "
            "test. A test with rows left out is another test"
        )
    check_numbers({"limit": limit, "seed": seed})  # Python shuffles by -1 as by 1
    origin = open_source(source, split=split, limit=limit, whole=seed is not None)
    tally = Tally(read=len(origin.rows))
    place, row = origin.rows[0]
    # A mixture that was written to a file has all columns of several kinds, some of them empty.
    mixed = sum(kind.keys() <= row.keys() for kind in _KINDS) > 1
    reader = reader_for(row, where=f"{origin.where}, row {place}", mixed=mixed)
    mathqa = reader is from_mathqa
    if reading == "clean" and not mathqa:
        raise ValueError(
            f"{origin.where}: reading='clean' is for MathQA's options, and these rows have none "
            "in that form. Leave reading out"
        )
    if mathqa:
        reader = partial(
            from_mathqa, reading=reading, drop_disputed=drop_disputed, notes=tally.notes
        )
    if reader in (from_asdiv, from_svamp):
        reader = partial(reader, notes=tally.notes)

    def converted() -> Iterator[tuple[int, Any]]:
        for place, row in origin.rows:
            try:
                where = f"{origin.where}, row {place}"
                found = reader_for(row, where=where, mixed=True) if mixed else reader
                made = read_row(row, found, where=where, source=origin.source, counted=tally.unread)
                yield place, made
            except UnusableRowError as reason:
                tally.drop(str(reason), place)

    pairs = converted()
    if reader is from_instruction:
        pairs = unwrap(
            pairs, tally=tally, test_questions=test_questions, train_questions=train_questions
        )
    problems = [problem for _, problem in pairs]
    if not problems:
        raise ValueError(f"{origin.where}: no usable row; {tally.line(origin.name)}")
    compared = tally.notes[AGREES] + tally.notes[DISAGREES]
    if compared and not drop_disputed:
        share = tally.notes[DISAGREES] / compared
        tally.remarks.append(f"{share:.1%} of the labels that can be compared are disputed")
    if seed is not None:
        random.Random(seed).shuffle(problems)
    return _dataset(problems[:limit]), tally, origin


def _dataset(rows: list[Any]) -> Dataset:
    """Rows in the columns of all their kinds; None where a row's kind has no such column."""
    there = [kind for kind in _KINDS if any(kind.keys() <= row.keys() for row in rows)]
    if CHAT_FEATURES in there:
        chats = [row for row in rows if "messages" in row]
        there[there.index(CHAT_FEATURES)] = chat_features(chats)
    features = Features({name: column for kind in there for name, column in kind.items()})
    filled = [{name: row.get(name) for name in features} for row in rows]
    if "messages" in features:
        keys = list(features["messages"].feature)
        for row in filled:
            turns = row["messages"]
            row["messages"] = turns and [{key: turn.get(key) for key in keys} for turn in turns]
    return Dataset.from_list(filled, features=features)
