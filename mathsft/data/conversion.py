"""Convert the rows of a source to the columns of their kinds, one row at a time."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any, get_args

from datasets import Features, IterableDataset

from mathsft.data.formulas import AGREES, DISAGREES
from mathsft.data.mathqa import Reading
from mathsft.data.messages import MESSAGE_FEATURES, keys_in, keys_of, type_with
from mathsft.data.questions import Questions, unwrap
from mathsft.data.readers import Format, format_of, renamed
from mathsft.data.row_counts import RowCounts
from mathsft.data.rows import RowKind, kind_of, kinds_in
from mathsft.data.schemas import UnusableRowError, from_instruction, from_mathqa
from mathsft.data.sources import Origin, file_stamp, open_source
from mathsft.data.word_problems import from_asdiv, from_svamp
from mathsft.processes import say

# Bytes. A smaller source is read again in a second or two, so it is not cached.
_SMALL = 8 * 2**20
# Rows of a stream that are held in memory and shuffled.
_BUFFER = 10_000


@dataclass
class Conversion:
    """How one source is read. ``tally`` counts rows read and dropped by the last call of `rows`."""

    origin: Origin
    format: Format
    mixed: bool  # rows of several kinds: the format is found for each row
    how: Mapping[str, Any]
    tally: RowCounts = field(default_factory=RowCounts)

    @classmethod
    def of(
        cls,
        source: str | Path,
        *,
        split: str,
        limit: int | None,
        whole: bool,
        reading: Reading,
        drop_disputed: bool,
        columns: Mapping[str, str] | None,
        test_questions: Questions | None,
        train_questions: Questions | None,
        streaming: bool = False,
    ) -> "Conversion":
        """Make one from arguments of `load_problems` and `open_source`; reads one row only."""
        if reading not in get_args(Reading):
            known = " or ".join(map(repr, get_args(Reading)))
            raise ValueError(f"reading={reading!r}: give {known}")
        a_test = split != "train" or Path(source).stem.lower().startswith("test")
        if drop_disputed and (reading == "official" or a_test):
            raise ValueError(
                f"{source}: drop_disputed is for training: it needs reading='clean' (here "
                f"{reading!r}), the split 'train' (here {split!r}), and a file name that does not "
                "begin with 'test'. A test with rows left out is another test"
            )
        origin = open_source(source, split=split, limit=limit, whole=whole, streaming=streaming)
        columns = dict(columns or {})
        first = next(origin.rows(), None)
        if first is None:
            raise ValueError(f"{origin.where}: no rows")
        place, row = first
        where = f"{origin.where}, row {place}"
        row = renamed(row, columns, where=where)
        # A mixture written to a file has the columns of several kinds; some of them are empty.
        mixed = len(kinds_in(row)) > 1
        found = format_of(row, where=where, mixed=mixed)
        if reading == "clean" and found.reader is not from_mathqa:
            raise ValueError(
                f"{origin.where}: reading='clean' is for MathQA's options, and these rows have "
                "none in that form. Leave out the argument reading"
            )
        how = {
            "reading": reading,
            "drop_disputed": drop_disputed,
            "columns": columns,
            "test_questions": _listed(test_questions),
            "train_questions": _listed(train_questions),
        }
        return cls(origin, found, mixed, how)

    def rows(self, limit: int | None = None) -> Iterator[tuple[dict[str, Any], RowKind, str]]:
        """Yield each usable row, its kind, and the text that names it in errors.

        Nothing is read after ``limit`` usable rows. Raises ValueError for a row that is not in the
        format, and at the end if no row is usable.
        """
        tally = self.tally = RowCounts()
        pairs = self._converted(tally)
        if self.format.reader is from_instruction:
            given = {name: self.how[name] for name in ("test_questions", "train_questions")}
            pairs = unwrap(pairs, tally=tally, **given)
        row = None
        for place, row in islice(pairs, limit):
            where = f"{self.origin.where}, row {place}"
            yield row, kind_of(row, where=where), where
        if row is None:
            raise ValueError(f"{self.origin.where}: no usable row; {tally.line(self.origin.name)}")
        compared = tally.notes[AGREES] + tally.notes[DISAGREES]
        if compared and not self.how["drop_disputed"]:
            share = tally.notes[DISAGREES] / compared
            tally.remarks.append(f"{share:.1%} of the labels that can be compared are disputed")

    def _converted(self, tally: RowCounts) -> Iterator[tuple[int, Any]]:
        more: dict[str, Any] = {}
        if self.format.reader in (from_mathqa, from_asdiv, from_svamp):
            more = {"notes": tally.notes}
        if self.format.reader is from_mathqa:
            more |= {name: self.how[name] for name in ("reading", "drop_disputed")}
        for place, row in self.origin.rows():
            tally.read += 1
            where = f"{self.origin.where}, row {place}"
            row = renamed(row, self.how["columns"], where=where)
            found, counted = self.format, set[str]()
            try:
                if self.mixed:
                    found = format_of(row, where=where, mixed=True)
                source = self.origin.source
                made = found.read(row, where=where, source=source, counted=counted, **more)
            except UnusableRowError as reason:
                tally.drop(str(reason), place)
                continue
            tally.unread.update(sorted(counted))
            yield place, made

    def key(self, limit: int | None = None) -> str | None:
        """Return a hash that identifies the result of `rows`; None if it should not be cached.

        Not cached: generated rows, a stream, a small source, and one that is compared with
        questions of the hub.
        """
        questions = [self.how[name] for name in ("test_questions", "train_questions")]
        open_end = self.format.reader is from_instruction and None in questions
        if self.origin.stamp is None or self.origin.size < _SMALL or open_end:
            return None
        code = sorted(map(file_stamp, Path(__file__).parent.glob("*.py")))
        files = [file_stamp(given) for given in questions if isinstance(given, Path)]
        made_by = [version("mathsft"), version("lm_eval"), code]  # its parser reads MathQA
        parts = [made_by, self.origin.stamp, self.origin.source, files, self.how, limit]
        return hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()[:32]


def _listed(questions: Questions | None) -> list[str] | Path | None:
    if questions is None or isinstance(questions, list):
        return questions
    return Path(questions).expanduser() if isinstance(questions, str | Path) else list(questions)


def streamed(
    source: str | Path, *, limit: int | None, seed: int | None, **how: Any
) -> IterableDataset:
    """Return a stream that reads the rows again at each pass, then prints what was dropped."""
    arguments = {"source": source, "limit": limit, "whole": False, "streaming": True, **how}
    conversion = Conversion.of(**arguments)
    row, kind, _ = next(conversion.rows())
    features = _widest([kind, *kinds_in(next(conversion.origin.rows())[1])], row)
    given = {"arguments": arguments, "features": features}
    rows = IterableDataset.from_generator(_stream, features=features, gen_kwargs={"given": given})
    if seed is not None:
        rows = rows.shuffle(seed=seed, buffer_size=_BUFFER)
    return rows if limit is None else rows.take(limit)


def _widest(kinds: list[RowKind], row: Mapping[str, Any]) -> Features:
    """All columns that rows of the kinds may have: only the last row shows which they need.

    A column that may hold text or messages gets the type that it has in ``row``.
    """
    found = {name: held for kind in kinds for name, held in {**kind.features, **kind.more}.items()}
    for name, held in found.items():
        if keys_of(held) is not None or keys_in(row.get(name)) is not None:
            found[name] = type_with(held, MESSAGE_FEATURES)
    return Features(found)


def _stream(given: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    conversion = Conversion.of(**given["arguments"])
    features, name = given["features"], conversion.origin.name
    end = "; not read to its end"
    try:
        for row, kind, where in conversion.rows():
            fits = all(
                (keys_in(row[c]) is None) == (keys_of(features[c]) is None)
                for c in kind.talk & features.keys()
            )
            if not fits or not row.keys() <= features.keys():
                raise ValueError(
                    f"{where}: another kind of row, or text in place of messages. All rows of a "
                    f"stream must have the form of its first row ({', '.join(features)})"
                )
            yield {column: row.get(column) for column in features}
        end = ""
    finally:
        say(conversion.tally.line(name) + end)
