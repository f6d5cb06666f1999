"""Prompt baskets: files of prompts for a model that is asked through a server, and its answers.

| column | meaning |
|---|---|
| prompt | the user's first message; the only column that is needed |
| id | text or a whole number, no two alike; default: the row's number, from 0 |
| system_prompt | the system message before the prompt |
| follow_up_prompt | the user's next message, sent after the answer; or a list of such messages |

`mathsft.generation.basket_client.generate_basket` asks the server and writes a file with one line
for each conversation:

| key | meaning |
|---|---|
| id, sample | the prompt's id, and the number of the conversation among those of this prompt |
| conversation | the messages, each with ``role`` and ``content`` |
| generated_message_indices | the places of the messages that the model wrote |
| finish_reasons | for each of these: ``stop``, or ``length`` for an answer that was cut |
| prompt_tokens, completion_tokens | for each of these, as the server counted; null if it did not |
| error | only if the conversation failed: why |

`basket_rows` turns the lines into rows to train on.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mathsft.checks import unknown_name
from mathsft.data.cells import parsed
from mathsft.data.columns import holds
from mathsft.data.given import check_column, check_row, check_rows, is_texts
from mathsft.data.local_files import iterate_rows
from mathsft.data.row_counts import not_read
from mathsft.data.schemas import UnusableRowError, text_of
from mathsft.generation.journal import read_journal, unique_id
from mathsft.processes import say

KIND = "answers to a prompt basket"
KEY = ("id", "sample")
_COLUMNS = ("id", "prompt", "system_prompt", "follow_up_prompt")
Message = dict[str, Any]


@dataclass(frozen=True)
class BasketPrompt:
    """One row of a basket.

    Args:
        id: identifies the prompt in the file of answers.
        prompts: the user's messages in their order: the prompt, then those that follow up.
        system_prompt: the system message; None if there is none.
    """

    id: str | int
    prompts: tuple[str, ...]
    system_prompt: str | None = None

    @property
    def system(self) -> list[Message]:
        """The messages before the prompt."""
        text = self.system_prompt
        return [] if text is None else [{"role": "system", "content": text}]

    def asks(self, line: Mapping[str, Any]) -> bool:
        """Whether the conversation in a line of answers is one with these messages.

        It has all of them, unless an answer before the last was cut.
        """
        written = set(line["generated_message_indices"])
        theirs = [m for n, m in enumerate(line["conversation"]) if n not in written]
        mine = [*self.system, *({"role": "user", "content": text} for text in self.prompts)]
        asked = len(theirs) if line["finish_reasons"][-1] != "stop" else len(mine)
        return theirs == mine[:asked] and len(theirs) > len(self.system)


def read_basket(
    basket: str | Path | Iterable[Mapping[str, Any]], *, columns: Mapping[str, str] | None = None
) -> list[BasketPrompt]:
    """Read a prompt basket; print how many prompts it has, and which columns are not read.

    Args:
        basket: a ``.jsonl``, ``.json``, ``.csv`` or ``.parquet`` file, also with ``.gz``; or rows.
        columns: your own names for the columns: ``{"prompt": "question"}`` reads the prompt from
            ``question``.

    Raises:
        ValueError: a broken file; no row; a row without a prompt; something else than text; an
            empty prompt; two rows with one id; a name in ``columns`` that no basket has.
        FileNotFoundError, IsADirectoryError: the path does not lead to a file.
    """
    names = dict(zip(_COLUMNS, _COLUMNS, strict=True)) | dict(columns or {})
    if unknown := next((name for name in names if name not in _COLUMNS), None):
        raise ValueError(f"columns: {unknown_name('column of a basket', unknown, _COLUMNS)}")
    placed: Iterable[tuple[int, Any]]  # in a file, the reader's own line or row number
    if isinstance(basket, str | Path):
        name, placed = str(basket), iterate_rows(Path(basket))
    else:
        name = "basket"
        check_rows(basket, name=name)
        placed = enumerate(basket)
    found: list[BasketPrompt] = []
    places: dict[Any, int] = {}
    unread: Counter[str] = Counter()
    made = 0
    for number, (place, row) in enumerate(placed):
        check_row(row, where=f"{name}, row {place}")
        try:
            key = unique_id(row.get(names["id"]), number, places, place=place)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
        found.append(_prompt(row, names, key, where=f"{name}, row {place}"))
        made += row.get(names["id"]) is None
        unread.update(f"column {n!r}" for n in row if n not in names.values() and holds(row[n]))
    if not found:
        raise ValueError(f"{name}: there are no prompts")
    ids = [f"{made:,} without an id, which is the row's number"] if made else []
    say("; ".join([f"{name}: {len(found):,} prompts", *ids, *not_read(unread)]))
    return found


def _prompt(
    row: Mapping[str, Any], names: Mapping[str, str], key: str | int, *, where: str
) -> BasketPrompt:
    check_column(row, names["prompt"], where=where)
    system, after = row.get(names["system_prompt"]), row.get(names["follow_up_prompt"])
    if after is None or after == "":
        after = []
    read = parsed(after)  # a CSV file holds a list as text
    after = read if is_texts(read) else [after]
    if not is_texts(after):
        raise ValueError(
            f"{where}, column {names['follow_up_prompt']!r}: expected a text or a list of texts, "
            f"found {after[0]!r:.40}"
        )
    texts = {names["prompt"]: row[names["prompt"]]}
    texts |= {f"{names['follow_up_prompt']}[{n}]": text for n, text in enumerate(after)}
    try:
        for column in texts:
            text_of(texts, column, where=where)
        if holds(system):
            text_of(row, names["system_prompt"], where=where)
    except UnusableRowError as error:
        raise ValueError(f"{where}: {error}: give a text, or remove the row") from None
    return BasketPrompt(key, (*texts.values(),), system if holds(system) else None)


def basket_rows(
    answers: str | Path | Iterable[Mapping[str, Any]], *, kind: Literal["chat", "prompt"] = "chat"
) -> list[dict[str, Any]]:
    """Return the conversations as rows to train on; print how many are left out, and why.

    Left out are conversations that failed, and those with an answer that is empty or did not stop
    by itself: training would add a stop token to it.

    Args:
        answers: the file that `generate_basket` wrote, whose rows are taken by id and sample; or
            rows.
        kind: ``chat`` gives ``messages``; all answers in a conversation are trained. ``prompt``
            gives ``prompt`` and ``completion``: the last answer after all that stands before it,
            as texts, or as lists of messages if that is more than one message of the user.

    Each row has the ``id`` and the ``sample`` too.

    Raises ValueError for another kind, for a file that `generate_basket` did not write, and for
    one with a broken line; FileNotFoundError if there is no such file.
    """
    if kind not in ("chat", "prompt"):
        raise ValueError(unknown_name("kind", kind, ("chat", "prompt")))
    lines = answers_in(answers) if isinstance(answers, str | Path) else [*answers]
    left: Counter[str] = Counter()
    found = []
    for number, line in enumerate(lines):
        check_line(line, where=f"answers, row {number}")
        if reason := left_out(line):
            left[reason] += 1
            continue
        made = {name: line[name] for name in KEY}
        found.append(made | _row(line["conversation"], kind))
    told = ", ".join(f"{n:,} {reason}" for reason, n in left.items())
    say(f"answers: {len(lines):,} conversations, {len(found):,} kept; left out: {told or 'none'}")
    return found


def answers_in(path: str | Path) -> list[dict[str, Any]]:
    """The lines of a file of answers by id and sample, in whichever order they were written.

    Raises what `basket_rows` raises for a file.
    """
    if not Path(path).exists():
        raise FileNotFoundError(f"{path}: there is no such file (looked from {Path.cwd()})")
    _, found = read_journal(Path(path), kind=KIND, key=KEY)
    return [
        found.results[key]
        for key in sorted(found.results, key=lambda key: (str(key[0]), str(key[1]).zfill(9)))
    ]


def check_line(line: Any, *, where: str) -> None:
    """Raise ValueError unless ``line`` is one that `generate_basket` writes."""
    for name in (*KEY, "conversation", "generated_message_indices", "finish_reasons"):
        check_column(line, name, where=where)
    talk, places = line["conversation"], line["generated_message_indices"]
    good = (
        isinstance(talk, list)
        and all(
            isinstance(m, Mapping) and is_texts([m.get("role"), m.get("content")]) for m in talk
        )
        and isinstance(places, list)
        and all(type(n) is int and 0 < n < len(talk) for n in places)
        and is_texts(line["finish_reasons"])
        and (len(places) == len(line["finish_reasons"]) > 0 or "error" in line)
    )
    if not good:
        raise ValueError(
            f"{where}: not a line that generate_basket wrote: the conversation, the places of the "
            f"generated messages and the finish reasons do not fit together: {line!r:.80}"
        )


def left_out(line: Mapping[str, Any]) -> str:
    """Why a conversation is not trained; "" if it is."""
    if "error" in line:
        return "failed"
    ends = line["finish_reasons"]
    if not set(ends) <= {"stop", "length"}:
        return "stopped by the server"
    if "length" in ends:
        return "cut"
    texts = [line["conversation"][n]["content"] for n in line["generated_message_indices"]]
    return "" if all(text.strip() for text in texts) else "empty"


def _row(conversation: list[Message], kind: str) -> dict[str, Any]:
    if kind == "chat":
        return {"messages": conversation}
    *before, last = conversation
    if len(before) == 1:
        return {"prompt": before[0]["content"], "completion": last["content"]}
    return {"prompt": before, "completion": [last]}
