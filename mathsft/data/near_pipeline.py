"""Near duplicates in files that are too many for one machine: a pipeline of datatrove.

1. Each task reads its files, and writes the signatures of their rows (`Signature`).
2. Each task takes one band, and writes the pairs of rows that have it in common (datatrove's step).
3. One task makes the global pass over these rows, as `near_duplicates` does.
4. Each task reads its files again, and writes the rows that are kept.

So the rows that are kept are those of ``deduplicate(method="near")`` over all files in a row,
however many tasks there are.
"""

import json
import os
import struct
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.dedup.minhash import MinhashDedupBuckets, MinhashDedupFilter
from datatrove.utils.binaryio import read_tuples_from_file

from mathsft.data.duplicate_groups import save_groups
from mathsft.data.local_files import iterate_rows
from mathsft.data.near_duplicates import Shingles, removed_rows, shingles_of, signature_step
from mathsft.data.row_parts import By, row_parts, words_in
from mathsft.data.row_reports import excerpt
from mathsft.data.schemas import UnusableRowError
from mathsft.files import write_whole

Place = tuple[int, int]  # the task that reads a row, and the row's index among those of the task
Stage = tuple[str, list[Any], int]  # name, steps, number of tasks


def near_stages(
    files: Sequence[Path],
    output: Path,
    *,
    tasks: int,
    by: By,
    n: int,
    threshold: float,
    seed: int,
) -> list[Stage]:
    """The four stages, each with its steps and its number of tasks.

    Args:
        files: of rows, in their order; a task reads every so many-th of them.
        output: the folder for the kept rows, the report (``groups.jsonl``) and all else.
        tasks: how many tasks read the files: at most as many as there are files.
        by: as in `mathsft.data.deduplication.deduplicate`, like all that follow.
        n: words in a run.
        threshold: the share of common runs from which on two rows are duplicates.
        seed: of the hash functions.
    """
    signed, shared, removed = (str(output / name) for name in ("signatures", "shared", "removed"))
    sign = signature_step(signed, n=n, threshold=threshold, seed=seed)
    buckets = MinhashDedupBuckets(signed, shared, config=sign.config)
    choose = ChooseRows(files, output, tasks=tasks, by=by, n=n, threshold=threshold)
    return [
        ("sign", [ReadRows(files, by=by), sign], tasks),
        ("compare", [buckets], sign.config.num_buckets),
        ("choose", [choose], 1),
        ("write", [ReadRows(files, by=by), MinhashDedupFilter(removed), WriteRows(output)], tasks),
    ]


class ReadRows(PipelineStep):  # type: ignore[misc]
    """Reads every ``tasks``-th file: each row is a document, whose text are its words."""

    type = "reader"
    name = "rows of files"

    def __init__(self, files: Sequence[Path], *, by: By) -> None:
        super().__init__()
        self.files, self.by = [Path(file) for file in files], by

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Yield the documents of this task."""
        for file in self.files[rank::world_size]:
            for place, row in iterate_rows(file):
                self.stat_update("rows")
                text, _ = self.texts(row, f"{file}, row {place}")
                yield Document(text=text, id=f"{file}:{place}", metadata={"row": row})

    def texts(self, row: Any, where: str) -> tuple[str, str]:
        """The words of a row, and how a report shows it; "" for a row that is not compared."""
        try:
            parts = row_parts(row, by=self.by, where=where)
        except UnusableRowError:
            self.stat_update("not compared")
            return "", ""
        return " ".join(words_in(parts)), excerpt(text for _, text in parts)


class ChooseRows(PipelineStep):  # type: ignore[misc]
    """Decides which rows are removed; the first of similar rows is kept.

    One task: in its memory are the shingles of the rows that have a band in common with another.
    """

    type = "choice"
    name = "the first of similar rows"

    def __init__(
        self, files: Sequence[Path], output: Path, *, tasks: int, by: By, n: int, threshold: float
    ) -> None:
        super().__init__()
        self.reader, self.output, self.tasks = ReadRows(files, by=by), Path(output), tasks
        self.n, self.threshold = n, threshold

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> None:
        """Write, for each task of the last stage, the rows to leave out; and the report."""
        buckets = self._buckets()
        step = signature_step(n=self.n, threshold=self.threshold)
        places: dict[int, Place] = {}
        shown: dict[int, str] = {}
        shingles: dict[int, Shingles] = {}

        def in_order() -> Iterator[int]:
            for row, (place, file, number, held) in enumerate(self._rows()):
                if place in buckets:
                    words, shown[row] = self.reader.texts(held, f"{file}, row {number}")
                    places[row], shingles[row] = place, shingles_of(step, words.split())
                    yield row

        removed = removed_rows(
            in_order(), lambda row: buckets[places[row]], shingles.pop, threshold=self.threshold
        )
        by_task: dict[int, list[int]] = defaultdict(list)
        for row in sorted(removed):
            by_task[places[row][0]].append(places[row][1])
        for task in range(self.tasks):  # in the form that MinhashDedupFilter reads
            packed = b"".join(struct.pack("<I", doc) for doc in by_task[task])
            write_whole(self.output / "removed" / f"{task:06d}.remove", packed)
        self.stat_update("removed", value=len(removed))
        text_of: Callable[[int], str] = shown.__getitem__
        save_groups(self.output / "groups.jsonl", removed, text_of)

    def _rows(self) -> Iterator[tuple[Place, Path, int, Any]]:
        counts = [0] * self.tasks
        for at, file in enumerate(self.reader.files):
            task = at % self.tasks
            for number, row in iterate_rows(file):
                yield (task, counts[task]), file, number, row
                counts[task] += 1

    def _buckets(self) -> dict[Place, list[tuple[str, int]]]:
        """For each row that has a band in common with another: these bands.

        The second stage writes each pair of neighbours in the order of the bands' values. So a pair
        that begins where the last one ended is of the same value.
        """
        found: dict[Place, list[tuple[str, int]]] = defaultdict(list)
        for file in sorted((self.output / "shared").glob("*.dups")):
            last, value = None, -1
            with file.open("rb") as pairs:
                for task, row, other_task, other in read_tuples_from_file(pairs, "4I"):
                    if (task, row) != last:
                        value += 1
                        found[task, row].append((file.name, value))
                    last = (other_task, other)
                    found[last].append((file.name, value))
        return found


class WriteRows(PipelineStep):  # type: ignore[misc]
    """Writes the rows of the documents, as they were read: ``00000.jsonl`` for the first task."""

    type = "writer"
    name = "rows to files"

    def __init__(self, output: Path) -> None:
        super().__init__()
        self.output = Path(output)

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> None:
        """Write the file of this task; it has its name once it is complete."""
        path = self.output / f"{rank:05d}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_name(f".{path.name}.new-{os.getpid()}")
        try:
            with new.open("w", encoding="utf-8") as file:
                for document in data:
                    self.stat_update("rows")
                    file.write(json.dumps(document.metadata["row"], ensure_ascii=False) + "\n")
            os.replace(new, path)
        finally:
            new.unlink(missing_ok=True)
