"""Reports about rows: a small table in JSON lines or CSV, written whole."""

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mathsft.files import inert, write_whole

_SHOWN = 200  # characters of a text


def excerpt(texts: Iterable[str]) -> str:
    """The begin of some texts, in one line."""
    return " ".join(" ".join(texts).split())[:_SHOWN]


def check_report(file: str | Path) -> Path:
    """Raise ValueError unless a report's name ends with .jsonl or .csv."""
    path = Path(file)
    if path.suffix not in (".jsonl", ".csv"):
        raise ValueError(f"{path}: give a report's name that ends with .jsonl or .csv")
    return path


def write_report(
    file: str | Path, lines: Iterable[Mapping[str, Any]], columns: Sequence[str]
) -> Path:
    """Write the lines; an older report is replaced. Raises what `check_report` raises."""
    path = check_report(file)
    if path.suffix == ".jsonl":
        return write_whole(path, "".join(f"{json.dumps(line)}\n" for line in lines))
    table = io.StringIO()
    writer = csv.DictWriter(table, columns)
    writer.writeheader()
    writer.writerows({name: inert(cell) for name, cell in line.items()} for line in lines)
    return write_whole(path, table.getvalue())
