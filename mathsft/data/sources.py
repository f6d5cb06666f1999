"""Where rows come from: the hub, the generators, or a local file."""

import difflib
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from mathsft.data.cells import from_arrow
from mathsft.data.columns import refuse_half
from mathsft.data.local_files import SUFFIXES, Row, check_file, iterate_rows, suffix_of
from mathsft.data.readers import format_of
from mathsft.data.schemas import UnusableRowError

_COMPRESSED = 5  # text is about this many times smaller in .gz

# Each source by name: its splits, and its repository and configuration on the hub
# (none for the sources that are generated).
GSM8K = ("openai/gsm8k", "main")
SOURCES: dict[str, tuple[tuple[str, ...], tuple[str, str | None] | None]] = {
    "gsm8k": (("train", "test"), GSM8K),
    "mathqa": (("train", "validation", "test"), ("regisss/math_qa", None)),
    "grade-school-math": (("train",), ("qwedsacf/grade-school-math-instructions", None)),
    "tiny-gsm": (("train", "validation", "test"), None),
    "tiny-mathqa": (("train", "validation", "test"), None),
}


@dataclass(frozen=True)
class Origin:
    """The rows of one source, and its names in output and in errors.

    ``rows()`` begins with the first row at each call. ``stamp`` changes if the rows change; it is
    None for rows that are generated or streamed from the hub. ``size`` is in bytes, roughly.
    """

    rows: Callable[[], Iterator[Row]]
    source: str  # what the column ``source`` says
    name: str  # what the summary says: "gsm8k/train", "train.jsonl"
    where: str  # what error messages say: a path, or a repository and split
    stamp: Any = None
    size: int = 0
    generated: bool = False


def open_source(
    source: str | Path, *, split: str, limit: int | None, whole: bool, streaming: bool = False
) -> Origin:
    """Return all rows of ``source`` as they are published.

    A generated source writes only ``limit`` rows, unless ``whole`` asks for its full usual
    number first (because the rows will be shuffled). With ``streaming``, rows from the hub are
    not downloaded completely first.

    Raises:
        ValueError: unknown source or split (the message names those that exist), or a file
            that is broken (see ``read_rows``).
        FileNotFoundError, IsADirectoryError: the path does not lead to a file.
        ConnectionError: the hub does not answer, or does not have the rows.
    """
    path = local_path(source)
    if path is not None:
        if split != "train":
            raise ValueError(
                f"{path}: split {split!r} is unknown; a file is one split, 'train'. "
                "Leave split out, and give another file for other rows"
            )
        check_file(path)
        size = path.stat().st_size * (_COMPRESSED if path.suffix.lower() == ".gz" else 1)
        rows = partial(iterate_rows, path)
        return Origin(rows, path.name, path.name, str(path), stamp=file_stamp(path), size=size)
    source = str(source)
    splits, hub = SOURCES.get(source, ((split,), (source, None)))
    if split not in splits:
        raise ValueError(f"{source}: split {split!r} is unknown; there are {', '.join(splits)}")
    if not hub:
        generated = _generated(source, split=split, limit=limit, whole=whole)
        return Origin(
            lambda: iter(enumerate(generated, start=1)),
            source,
            f"{source}/{split}",
            f"{source} ({split})",
            generated=True,
        )
    table = _hub_table(*hub, split=split, streaming=streaming)
    return Origin(
        partial(_table_rows, table),
        source,
        f"{source}/{split}",
        f"{hub[0]} ({split})",
        stamp=None if streaming else [file_stamp(Path(f["filename"])) for f in table.cache_files],
        size=0 if streaming else table.info.dataset_size or 0,
    )


def published_rows(source: str | Path, *, split: str = "train") -> list[dict[str, Any]]:
    """All rows of a source as they are published, with all of their columns, in memory.

    Raises what `open_source` and `mathsft.data.local_files.iterate_rows` raise.
    """
    origin = open_source(source, split=split, limit=None, whole=True)
    return [row for _, row in origin.rows()]


def file_stamp(path: Path) -> tuple[str, int, int]:
    """What shows that a file has changed: its path, size and modification time."""
    found = path.stat()
    return str(path.resolve()), found.st_size, found.st_mtime_ns


def hub_rows(repository: str, config: str | None, *, split: str) -> Iterator[Row]:
    """The rows of one split of a hub data set, counted from 1; raises as `open_source` does."""
    return _table_rows(_hub_table(repository, config, split=split, streaming=False))


def _table_rows(table: Any) -> Iterator[Row]:
    batches = table.with_format("arrow").iter(batch_size=1000)
    rows = (row for batch in batches for row in batch.to_pylist())
    return enumerate(map(from_arrow, rows), start=1)


def _hub_table(repository: str, config: str | None, *, split: str, streaming: bool) -> Any:
    """One split of a hub data set, on disk or as a stream.

    Raises:
        ConnectionError: the hub did not deliver, for any reason; the cause is chained.
    """
    from datasets import load_dataset

    try:
        rows = load_dataset(repository, config, split=split, streaming=streaming)
    except Exception as error:  # hub, HTTP and cache raise some ten unrelated classes
        raise ConnectionError(
            f"{repository} (split {split}) could not be loaded from the hub "
            f"({type(error).__name__}: {error}). Without a network use 'tiny-gsm' or "
            f"'tiny-mathqa', or give the path of a local file"
        ) from error
    return rows


def questions_of(given: str | Path | Iterable[str]) -> list[str]:
    """Return questions given as a list, or as the path of a local file in any known schema.

    Raises:
        ValueError: a file that is broken, has an unusable row, or has a part of its questions in a
            column that is not read. No row is skipped here: a list that other rows are compared
            with must be complete.
    """
    if not isinstance(given, (str, Path)):
        return list(given)
    path = Path(given).expanduser()
    found = None
    questions = []
    for place, row in iterate_rows(path):
        where = f"{path}, row {place}"
        found = found or format_of(row, where=where)
        refuse_half(row, where=where, read=found.columns)
        try:
            questions += found.kind.asks(found.reader(row, where=where, source=path.name))
        except UnusableRowError as reason:
            raise ValueError(f"{where}: {reason}") from reason
    return questions


def local_path(source: str | Path) -> Path | None:
    """``source`` as a path; None if it names one of ``SOURCES`` or a hub data set."""
    if source in SOURCES:
        return None
    path = Path(source).expanduser()
    # The ".5" of owner/name-2.5 is not a suffix.
    if isinstance(source, Path) or re.fullmatch(r"\.[A-Za-z]+", suffix_of(path)) or path.exists():
        return path
    known = {name: name for name in SOURCES}
    known |= {hub[0].lower(): name for name, (_, hub) in SOURCES.items() if hub}
    if re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", source) and source.lower() not in known:
        return None
    near = difflib.get_close_matches(source.lower(), known, n=1, cutoff=0.4)
    hint = f": did you mean {known[near[0]]!r}?" if near else "."
    raise ValueError(
        f"unknown source {source!r}{hint} Known: {', '.join(SOURCES)}, "
        f"or the path of a {', '.join(SUFFIXES)} file, or a hub data set (owner/name)"
    )


def _generated(source: str, *, split: str, limit: int | None, whole: bool) -> list[dict[str, str]]:
    from mathsft.data.synthetic.grade_school import tiny_gsm_rows
    from mathsft.data.synthetic.multiple_choice import tiny_mathqa_rows

    generate = {"tiny-gsm": tiny_gsm_rows, "tiny-mathqa": tiny_mathqa_rows}[source]
    rows = generate(split, None if whole else limit)
    return rows if limit is None or limit <= len(rows) else generate(split, limit)
