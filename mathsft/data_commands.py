"""The commands ``mathsft deduplicate`` and ``mathsft decontaminate``: a source in, a file out."""

from collections.abc import Callable, Generator, Sequence
from typing import Any, Literal

from mathsft.command_line import CONFIG, Options
from mathsft.options import Option, options_of

Name = Literal["deduplicate", "decontaminate"]


def cleaning(name: Name) -> Callable[[str, Sequence[str]], Generator[Options, Any, None]]:
    """The command of this name. The rows that are kept are written with all of their columns."""

    def command(about: str, _: Sequence[str]) -> Generator[Options, Any, None]:
        from mathsft.data.deduplication import deduplicate
        from mathsft.data.local_files import check_new_file, write_rows
        from mathsft.data.sources import published_rows
        from mathsft.evaluation.decontamination import decontaminate

        clean: Any = {"deduplicate": deduplicate, "decontaminate": decontaminate}[name]
        source = "a .jsonl, .json, .parquet or .csv file (also .gz), or a data set of the hub"
        own = {
            "config": CONFIG,
            "source": Option(str, help=source, required=True),
            "split": Option(str, help="the split of a data set; default: train"),
            "file": Option(str, help="a new file, .jsonl or .parquet", required=True),
        }
        given = (yield Options(name, about, own | options_of(clean, skip={"rows"})))[1]
        file = check_new_file(given.pop("file"))
        rows = published_rows(given.pop("source"), split=given.pop("split", "train"))
        print(write_rows(clean(rows, **given).rows, file))

    return command
