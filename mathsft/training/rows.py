"""The rows to train on: a data set as an objective encodes it, counted, packed, kept on disk."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, Features, IterableDataset, List, Value
from datasets.fingerprint import get_temporary_cache_files_directory

import mathsft
from mathsft.checks import check_numbers
from mathsft.compat import dataset_fingerprint, without_progress_bars
from mathsft.data.given import check_rows
from mathsft.data.row_counts import not_read
from mathsft.device import installed_version
from mathsft.models.computation import json_hash, plain
from mathsft.models.encoding import tokenizer_values
from mathsft.models.forest import IGNORE
from mathsft.objectives import tokenises_as_here
from mathsft.objectives.base import Group, Objective, Row, RowCounts
from mathsft.processes import say
from mathsft.training.arguments import reasons

_TOKENS = List(List(Value("int32")))
# Counted for the log, then removed from the training rows.
_NOTED = {
    "passed": Value("int32"),
    "separate": Value("int32"),
    "trained": Value("int32"),
    "dropped": Value("string"),
    "unread": List(Value("string")),
}
Encode = Callable[[Sequence[Row], int, bool], dict[str, list[Any]]]
_AT_ONCE = 500  # rows held as Python objects at a time


def training_rows(
    rows: Iterable[Row],
    tokenizer: Any,
    objective: Objective,
    *,
    max_length: int = 512,
    positions: int | None = None,
    name: str = "train",
) -> Dataset:
    """Encode ``rows`` for ``objective``, and print one line: counts, and drops by reason.

    Columns ``input_ids, labels``: for each row a list of its sequences' tokens, and the same list
    with -100 for each token without a loss; and the columns that the objective keeps.

    Rows of a `datasets.Dataset` on disk (such as from `load_problems`) are tokenised in batches
    into its folder, and reused at the next start. Other rows, such as a stream or a list, go to a
    temporary file. Only one batch is held in memory.

    Args:
        max_length: tokens of a row; anything longer is dropped and counted, never cut.
        positions: the model's limit (`mathsft.models.attention.position_limit`), treated alike.
        name: starts the printed line.

    Rows of an objective of your own (`mathsft.objectives.tokenises_as_here`) are encoded again at
    each start, because its code may have changed.

    Raises ValueError if no row is left, with the reasons; if ``rows`` is a data set's splits
    instead of its rows; and what the objective raises for a row.
    """
    check_numbers({"max_length": max_length})
    check_rows(rows, name=name)

    def encode(given: Sequence[Row], first: int, arrow: bool) -> dict[str, list[Any]]:
        try:
            groups = objective.groups(given, tokenizer, first=first, arrow=arrow)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        objective.drop_long(groups, max_length=max_length, positions=positions)
        return _columns(groups, objective)

    features = Features({"input_ids": _TOKENS, "labels": _TOKENS, **objective.columns, **_NOTED})
    if (
        isinstance(rows, Dataset)
        and len(rows)
        and rows.cache_files
        and tokenises_as_here(objective)
    ):
        about = [objective.name, plain(asdict(objective)), max_length, positions]
        with without_progress_bars():
            encoded = rows.map(
                lambda batch, indices: encode(_rows_of(batch), indices[0], True),
                batched=True,
                batch_size=_AT_ONCE,
                with_indices=True,
                remove_columns=rows.column_names,
                features=features,
                new_fingerprint=_fingerprint(rows, tokenizer, about),
            )
    else:
        encoded = _stored(rows, encode, features)

    if not len(encoded):
        raise ValueError(f"{name}: there are no rows")
    table = encoded.with_format("arrow")[:]
    dropped = _counted(table.column("dropped"))
    dropped.pop("", None)
    for line in not_read(_counted(pc.list_flatten(table.column("unread")))):
        say(f"{name}: {line}")
    kept = encoded
    if dropped:
        kept = encoded.select(pc.indices_nonzero(pc.equal(table.column("dropped"), "")).to_pylist())
    if among := objective.drop_among(kept):
        dropped.update(among.values())
        kept = kept.select([index for index in range(len(kept)) if index not in among])
        table = kept.with_format("arrow")[:]
    if not len(kept):
        hints = [hint for reason, hint in objective.hints.items() if reason in dropped]
        raise ValueError(
            ". ".join([f"{name}: no row is left; dropped: {reasons(dropped)}", *hints])
        )
    counts = RowCounts(
        groups=len(kept),
        sequences=len(pc.list_flatten(table.column("input_ids"))),
        **{key: pc.sum(table.column(key)).as_py() for key in ("passed", "separate", "trained")},
    )
    made, layout = objective.rows(kept.remove_columns(list(_NOTED)), max_length=max_length)
    say(f"{name}: {objective.told(counts, layout)}; dropped: {reasons(dropped)}")
    return made


def _stored(rows: Iterable[Row], encode: Encode, features: Features) -> Dataset:
    """Encode rows one after the other, into a file that is removed when the process ends."""
    path = Path(get_temporary_cache_files_directory()) / f"{uuid4()}.arrow"
    given, first = iter(rows), 0
    arrow = isinstance(rows, Dataset | IterableDataset)
    with pa.ipc.new_stream(path, features.arrow_schema) as writer:
        while part := list(islice(given, _AT_ONCE)):
            made = Dataset.from_dict(encode(part, first, arrow), features=features)
            writer.write_table(made.data.table)
            first += len(part)
    return Dataset.from_file(str(path))


def _rows_of(batch: Mapping[str, list[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)]


def _columns(groups: Iterable[Group], objective: Objective) -> dict[str, list[Any]]:
    """Groups as columns. A dropped group keeps its reason, but no tokens."""
    columns: dict[str, list[Any]] = {
        key: [] for key in ("input_ids", "labels", *objective.columns, *_NOTED)
    }
    for group in groups:
        sequences = () if group.dropped else group.sequences
        row = {
            "input_ids": [sequence["input_ids"] for sequence in sequences],
            "labels": [sequence["labels"] for sequence in sequences],
            "passed": 0 if group.dropped else group.length,
            "separate": sum(len(sequence["input_ids"]) - 1 for sequence in sequences),
            # The first token of a sequence is never predicted.
            "trained": sum(n != IGNORE for sequence in sequences for n in sequence["labels"][1:]),
            "dropped": group.dropped,
            "unread": sorted(group.unread),
            **{key: group.columns.get(key) for key in objective.columns},
        }
        for key, values in columns.items():
            values.append(row[key])
    return columns


def _counted(texts: Any) -> Counter[str]:
    return Counter({pair["values"]: pair["counts"] for pair in pc.value_counts(texts).to_pylist()})


def _fingerprint(rows: Dataset, tokenizer: Any, about: Any) -> str:
    """Name the tokenised rows on disk: other rows, tokenizer, settings or code change the name."""
    libraries = ("datasets", "transformers", "tokenizers", "jinja2")
    versions = {library: installed_version(library) for library in libraries}
    parts = [dataset_fingerprint(rows), tokenizer_values(tokenizer), about, versions, _code()]
    return json_hash(parts)


@cache
def _code() -> str:
    """SHA-256 of the source files that tokenise."""
    digest = hashlib.sha256()
    for path in _sources(Path(mathsft.__file__).parent):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _sources(package: Path) -> Iterator[Path]:
    for folder in ("data", "models", "objectives"):
        yield from sorted((package / folder).glob("*.py"))
    yield Path(__file__)
