"""Where rows come from: the hub, the generators, or a local file."""

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mathsft.data.chat import asked
from mathsft.data.columns import refuse_half
from mathsft.data.local_files import SUFFIXES, Row, read_rows
from mathsft.data.messages import from_arrow
from mathsft.data.readers import columns_of, reader_for
from mathsft.data.schemas import UnusableRowError

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
    """The rows of one source and how to speak of them."""

    rows: list[Row]
    source: str  # what the column ``source`` says
    name: str  # what the summary says: "gsm8k/train", "train.jsonl"
    where: str  # what error messages say: a path, or a repository and split


def open_source(source: str | Path, *, split: str, limit: int | None, whole: bool) -> Origin:
    """All rows of ``source`` as they are published.

    A generated source writes ``limit`` rows and no more, unless ``whole`` asks for all of
    its usual number first (because they are to be shuffled).

    Raises:
        ValueError: unknown source or split (the message names those that exist), or a file
            that is broken (see ``read_rows``).
        FileNotFoundError, IsADirectoryError: a path that leads to no file.
        ConnectionError: the hub does not answer, or does not have the rows.
    """
    path = _path(source)
    if path is not None:
        if split != "train":
            raise ValueError(
                f"{path}: split {split!r} is unknown; a file is one split, 'train'. "
                "Leave split out, and give another file for other rows"
            )
        return Origin(read_rows(path), path.name, path.name, str(path))
    source = str(source)
    if source not in SOURCES:
        where = f"{source} ({split})"
        return Origin(hub_rows(source, None, split=split), source, f"{source}/{split}", where)
    splits, hub = SOURCES[source]
    if split not in splits:
        raise ValueError(f"{source}: split {split!r} is unknown; there are {', '.join(splits)}")
    if hub:
        rows = hub_rows(*hub, split=split)
        where = f"{hub[0]} ({split})"
    else:
        generated = _generated(source, split=split, limit=limit, whole=whole)
        rows = list(enumerate(generated, start=1))
        where = f"{source} ({split})"
    return Origin(rows, source, f"{source}/{split}", where)


def hub_rows(repository: str, config: str | None, *, split: str) -> list[Row]:
    """The rows of one split of a hub data set, counted from 1.

    Raises:
        ConnectionError: for whatever reason the hub did not deliver; the cause is chained.
        ValueError: the split is there and empty.
    """
    from datasets import load_dataset

    try:
        rows = load_dataset(repository, config, split=split).to_list()
    except Exception as error:  # hub, HTTP and cache layers have some ten unrelated classes
        raise ConnectionError(
            f"{repository} (split {split}) could not be loaded from the hub "
            f"({type(error).__name__}: {error}). Without a network use 'tiny-gsm' or "
            f"'tiny-mathqa', or give the path of a local file"
        ) from error
    if not rows:
        raise ValueError(f"{repository} (split {split}): no rows")
    return list(enumerate(map(from_arrow, rows), start=1))


def questions_of(given: str | Path | Iterable[str]) -> list[str]:
    """Questions given as a list, or as the path of a local file in any known schema.

    Raises:
        ValueError: a file that is broken, has an unusable row, or has a part of its questions in a
            column that is not read. None is skipped here: a list that rows are held against must
            be whole.
    """
    if not isinstance(given, (str, Path)):
        return list(given)
    path = Path(given).expanduser()
    rows = read_rows(path)
    reader = reader_for(rows[0][1], where=f"{path}, row {rows[0][0]}")
    questions = []
    for place, row in rows:
        where = f"{path}, row {place}"
        refuse_half(row, where=where, read=columns_of(reader))
        try:
            questions += asked(reader(row, where=where, source=path.name))
        except UnusableRowError as reason:
            raise ValueError(f"{where}: {reason}") from reason
    return questions


def _path(source: str | Path) -> Path | None:
    """``source`` as a path, None where it names one of ``SOURCES`` or a hub data set."""
    if source in SOURCES:
        return None
    path = Path(source).expanduser()
    # The ".5" of owner/name-2.5 is no suffix.
    if isinstance(source, Path) or re.fullmatch(r"\.[A-Za-z]+", path.suffix) or path.exists():
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
    from mathsft.data.synthetic import tiny_gsm_rows, tiny_mathqa_rows

    generate = {"tiny-gsm": tiny_gsm_rows, "tiny-mathqa": tiny_mathqa_rows}[source]
    rows = generate(split, None if whole else limit)
    return rows if limit is None or limit <= len(rows) else generate(split, limit)
