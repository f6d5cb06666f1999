"""Files of results: their names, and a damaged one told from a file that is something else.

A result that was cut early, or that a full disk left empty, must not look as if the model had
never been evaluated.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from mathsft.files import check_regular, parse_json

FORMAT = 1
_KEY = '{"mathsft_result"'
_PLAIN: dict[str, Any] = {
    "str": str,
    "bool": bool,
    "int": int,
    "float": (int, float),
    "int | None": (int, type(None)),
}
_ASKED: dict[str, type] = {
    "id": str, "question": str, "choices": list, "label": int, "category": str,
    "loglikelihoods": list, "metrics": dict,
}  # fmt: skip


def result_file(name: str, task: str, num_fewshot: int = 0, limit: int | None = None) -> str:
    """The file name of a run, valid in any folder.

    The numbers of few-shot examples and of asked questions are in it if they were given, so that a
    run of ten questions does not replace one of all. A long name is cut, and ends in a hash of the
    whole one.

    Args:
        name: the run's name.
        task: the task's name.
        num_fewshot: worked examples before each question.
        limit: how many questions were asked; None: all.
    """
    parts = [_slug(name, 120).lower(), _slug(task, 80)]
    parts += [f"{num_fewshot}-shot"] * bool(num_fewshot) + [f"limit-{limit}"] * (limit is not None)
    return ".".join(parts) + ".json"


def _slug(text: str, longest: int) -> str:
    """The text as part of a file's name, of at most ``longest`` bytes."""
    slug = re.sub(r"[^\w+.-]+", "-", text).strip("-.") or "run"
    if len(slug.lower().encode()) <= longest:
        return slug
    short = slug.lower().encode()[: longest - 9].decode(errors="ignore")
    return f"{short}-{hashlib.sha256(text.encode(errors='surrogatepass')).hexdigest()[:8]}"


def result_files(folder: Path) -> list[Path]:
    """The files of a folder that are results, or damaged ones; other JSON files are left out."""
    return [file for file in sorted(folder.glob("*.json")) if may_be_result(file)]


def may_be_result(file: Path) -> bool:
    """Whether a file begins like a result, or like nothing that is JSON: it must not be ignored."""
    if file.is_dir():
        return False
    try:
        check_regular(file)
        with file.open("rb") as start:
            head = start.read(64)
    except (OSError, ValueError):
        return True  # `read_stored` says what is wrong with it
    text = re.sub(rb"\s", b"", head).removeprefix(b"\xef\xbb\xbf").decode(errors="replace")
    return text.startswith(_KEY) or _KEY.startswith(text) or text[0] not in '{["-0123456789tfn'


def read_stored(path: Path, kind: type) -> dict[str, Any]:
    """The fields of a stored result, for the dataclass ``kind``.

    Raises ValueError, with the file, if it is damaged or is not a result.
    """
    again = "The file is damaged: evaluate again"
    try:
        check_regular(path)
        data = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from error
    if not data.strip(b"\0 \t\r\n"):
        raise ValueError(f"{path}: empty, {len(data)} bytes. {again}")
    try:
        content = parse_json(data, path)
    except ValueError as error:
        raise ValueError(f"{error}. {again}") from None
    if not isinstance(content, dict) or content.get("mathsft_result") != FORMAT:
        raise ValueError(f"{path}: not a result of an evaluation (format {FORMAT})")
    known = {field.name: field for field in fields(kind)}
    needed = {name for name, field in known.items() if field.default is MISSING}
    if missing := sorted(needed - content.keys()):
        raise ValueError(f"{path}: {', '.join(missing)} missing: evaluate again")
    found = {key: value for key, value in content.items() if key in known}
    for key, value in found.items():
        expected = _PLAIN.get(getattr(known[key].type, "__name__", str(known[key].type)))
        if expected and not isinstance(value, expected):
            raise ValueError(f"{path}: {key} is {value!r:.40}. {again}")
    try:
        _check_questions(found["questions"], found)
    except ValueError as error:
        raise ValueError(f"{path}: {error}. {again}") from None
    return found


def _check_questions(questions: Any, found: Mapping[str, Any]) -> None:
    for name in ("versions", "harness"):
        if not isinstance(found[name], dict):
            raise ValueError(f"{name} is {found[name]!r:.40}")
    if not isinstance(questions, list) or not questions:
        raise ValueError("it has no questions")
    for row, question in enumerate(questions):
        if not isinstance(question, dict):
            raise ValueError(f"question {row} is {question!r:.40}")
        for key, kind in _ASKED.items():
            if not isinstance(question.get(key), kind):
                raise ValueError(f"question {row}, {key}: found {question.get(key)!r:.40}")
        numbers = [*question["metrics"].values(), *question["loglikelihoods"]]
        if not all(isinstance(number, int | float) for number in numbers):
            raise ValueError(f"question {row}: a metric or a log-likelihood is not a number")


def as_json(content: Mapping[str, Any]) -> str:
    """The text of a result's file: the format first, which `result_files` looks for."""
    return json.dumps({"mathsft_result": FORMAT, **content})
