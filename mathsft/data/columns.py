"""Columns and keys that a reader does not use: none is ignored silently.

A name that is known to be harmless (an id, a source) passes. A name that would change what a row
means, or that holds a part of the question, is an error. Exceptions are ``weight``, ``train`` and
a true or false ``label``, which are understood. All others are counted and shown in the summary.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from numbers import Real
from typing import Any

from mathsft.data.schemas import UnusableRowError


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_HARMLESS = _words("""
    id ids idx index uuid uid guid hash key url urls uri link links source sources dataset
    data_source origin provenance subset split file filename file_name path author authors license
    licence copyright attribution category categories type types kind subject subjects topic topics
    domain area skill skills concept concepts tag tags keywords difficulty level grade language
    lang locale metadata meta timestamp date created created_at updated_at version model model_name
    generator parallel_tool_calls
""")
PROBLEM_COLUMNS = _words("question solution answer choices label source")
_HARMLESS_ENDS = ("_id", "_ids", "_idx", "_index", "_uuid", "_url")

# A row is not complete without these. Chats often keep the columns from which they were made, so
# for chats only those count that no message can hold, or that belong before all messages.
_BEFORE_CHAT = _words("""
    system system_prompt system_message documents image images audio audios video videos figure
    figures diagram
""")
_PARTS = _BEFORE_CHAT | _words("""
    body context contexts passage passages story stories paragraph paragraphs scenario background
    premise hypothesis input inputs document table tables preamble stem
""")
# Words in a name that say how much a row or a turn counts, or that it is a bad example.
_MEANING = _words("""
    weight weights loss losses mask masks masked trainable score scores reward rewards rating
    ratings advantage advantages chosen rejected preferred dispreferred preference preferences
    negative negatives correct incorrect correctness wrong skip ignore ignored exclude excluded
    discard
""")
_WHY_CHOSEN = _words("chosen rejected score scores rating ratings")
_MEANING_NAMES = _words("""
    train training label labels trained_from completions tools functions function_call tool_calls
    chat_template_kwargs chat_template
""")


def holds(value: Any) -> bool:
    """Whether a cell holds something: null, blank text and empty lists or objects hold nothing."""
    if isinstance(value, str):
        return bool(value.strip())
    if isinstance(value, Mapping):
        return any(map(holds, value.values()))
    if isinstance(value, list | tuple):
        return any(map(holds, value))
    return value is not None


def trained(given: Mapping[str, Any], *, where: str) -> bool | None:
    """Return what ``train``, ``training`` (true or false) or ``weight`` (0 or 1) say, or None.

    ``weight`` is OpenAI's key, ``train`` and ``training`` are Axolotl's. Null counts as absent.
    Raises ValueError for any other value, and if two of them contradict each other.
    """
    said: dict[str, bool] = {}
    for key in ("train", "training", "weight"):
        value = given.get(key)
        if value is None:
            continue
        number = isinstance(value, Real) and not isinstance(value, bool) and value in (0, 1)
        if not (number if key == "weight" else isinstance(value, bool)):
            expected = "0 or 1" if key == "weight" else "true or false"
            raise ValueError(f"{where}, {key!r}: expected {expected}, found {value!r:.40}")
        said[key] = bool(value)
    if len(set(said.values())) > 1:
        both = ", ".join(f"{key}: {given[key]!r}" for key in said)
        raise ValueError(f"{where}: {both} contradict each other. Keep one of them")
    return next(iter(said.values()), None)


def refuse_untrained(row: Mapping[str, Any], *, where: str, read: Collection[str]) -> None:
    """Raise UnusableRowError for a row that says that it should not be trained.

    Such a row has ``weight: 0``, ``train: false``, or ``label: false``, which marks a bad answer
    in TRL's KTO data. Raises ValueError if one of these keys has an unknown value; ``label`` may
    have any other value if it is among the columns that are ``read``.
    """
    if trained(row, where=where) is False:
        raise UnusableRowError("with weight 0 or train false")
    label = row.get("label")
    if label is False:
        raise UnusableRowError("labelled as a bad answer")
    if not (label is None or label is True or "label" in read):
        raise ValueError(
            f"{where}, column 'label': expected true (a good answer) or false (a bad one), found "
            f"{label!r:.40}"
        )


def refuse_half(
    row: Mapping[str, Any], *, where: str, read: Collection[str], talk: bool | None = None
) -> None:
    """Raise ValueError if a column that is not ``read`` holds a part of what the row asks.

    ``talk`` says whether the row is a conversation; by default it is if ``messages`` are read.
    """
    talk = "messages" in read if talk is None else talk
    for name in _others(row, read):
        if name.lower() in (_BEFORE_CHAT if talk else _PARTS):
            whole = "messages" if talk else "question or prompt"
            raise ValueError(
                f"{where}: column {name!r} holds {row[name]!r:.60}, which belongs to the {whole} "
                f"but is not read. Put it into the {whole}, or remove the column if it adds nothing"
            )


def unread(
    given: Mapping[str, Any],
    *,
    where: str,
    read: Collection[str],
    what: str = "column",
    paired: bool = False,
) -> Iterator[str]:
    """Yield the names in a row or a message that hold something, unless read or harmless.

    Raises ValueError for a name that may change what is trained. If the row is a pair of answers
    (``paired``), a score is no error: it only says why one of them was chosen.
    """
    meaning = _MEANING - _WHY_CHOSEN if paired else _MEANING
    understood = {"weight", "train", "training"} | ({"label"} if what == "column" else set())
    for name in _others(given, read):
        plain = name.lower()
        words = set(re.findall("[a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()))
        if name in understood or plain in _HARMLESS or plain.endswith(_HARMLESS_ENDS):
            continue
        if words & {"chosen", "rejected"} and not paired:
            raise ValueError(f"{where}: {what} {name!r}: {PREFERENCES}")
        if words & meaning or plain in _MEANING_NAMES:
            raise ValueError(
                f"{where}: {what} {name!r} holds {given[name]!r:.40}, which may say what should be "
                "trained, but it is not read. Remove it if everything should be trained equally. "
                "To leave out a row or an assistant turn, give it train: false or weight: 0"
            )
        yield name


PREFERENCES = (
    "half of a pair of a better and a worse answer. A pair needs the columns prompt, chosen and "
    "rejected. To train only the better answer, give prompt and completion, or messages"
)


def _others(given: Mapping[str, Any], read: Collection[str]) -> Iterator[str]:
    return (name for name, value in given.items() if name not in read and holds(value))
