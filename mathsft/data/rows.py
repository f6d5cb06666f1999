"""The kinds of rows, and how they differ. Code that handles rows looks up their kind here.

| kind | columns | what it asks |
|---|---|---|
| problem | question, solution, answer, choices, label, source (`.problems`) | question |
| chat | messages, trained_from, source (`.chat`) | the user's turns |
| prompt | prompt, completion, source | prompt |
| preference | prompt, chosen, rejected, source; margin (`.preferences`) | prompt |
| unpaired | prompt, completion, label, source (`.scored`) | prompt |
| group | prompt, completions, rewards, source; ended | prompt |

A data set may hold rows of several kinds; a column that a row's kind does not have is null. The
first three kinds may have a ``teacher_prompt`` as well.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from datasets import Dataset, Features, List, Value

from mathsft.data.cells import SCORES
from mathsft.data.chat import (
    CHAT_COLUMNS,
    CHAT_FEATURES,
    PROMPT_FEATURES,
    TEACHER_PROMPT,
    answered,
    from_chat,
    from_prompt_text,
    with_teacher_prompt,
)
from mathsft.data.columns import refuse_half, refuse_untrained, unread
from mathsft.data.messages import content_text
from mathsft.data.preferences import MARGIN, PREFERENCE_FEATURES, read_preference
from mathsft.data.prompts import sft_completion, sft_prompt
from mathsft.data.schemas import from_own
from mathsft.data.scored import ENDED, GROUP_FEATURES, UNPAIRED_FEATURES, read_group, read_unpaired

Row = Mapping[str, Any]

FEATURES = Features(
    {
        "question": Value("string"),
        "solution": Value("string"),
        "answer": Value("string"),
        "choices": List(Value("string")),
        "label": Value("int64"),
        "source": Value("string"),
    }
)


@dataclass(frozen=True, eq=False)
class RowKind:
    """One kind of row.

    ``features`` are its columns; a column for text or messages has the type text. ``told_by`` are
    the columns that identify the kind: a row that fills them is of it, unless it is of an earlier
    kind (`kind_of` checks the kinds in order). ``asks_in`` is the column with what a row asks.
    ``reader`` reads a row with these columns; ``example`` makes a worked example from a row.
    ``more`` are columns that only some data sets have, ``talk`` those that may hold messages,
    ``also`` those that the reader reads in addition.
    """

    name: str
    features: Features
    told_by: tuple[str, ...]
    asks_in: str
    reader: Callable[..., Any]
    example: Callable[[Row], Row]
    more: Features = field(default_factory=Features)
    talk: frozenset[str] = frozenset()
    also: frozenset[str] = frozenset()

    @property
    def columns(self) -> frozenset[str]:
        """All columns that are read."""
        return frozenset([*self.features, *self.more, *self.also])

    def tells(self, row: Row) -> bool:
        """Whether a row is of this kind, provided that no earlier kind matches."""
        return all(row.get(column) is not None for column in self.told_by)

    def read(
        self, row: Row, *, where: str, source: str = "", counted: set[str] | None = None, **how: Any
    ) -> dict[str, Any]:
        """Check a row that has this kind's columns; return it as `load_problems` does.

        Args:
            where: names file and row in errors.
            source: the value of ``source`` if the row has none.
            counted: collects the columns and keys that hold something and are not read.
            how: arguments of the kind's own reader, such as ``any_role`` for messages.

        Raises:
            UnusableRowError: the row cannot be used, or says that it should not be trained.
            ValueError: a missing column, another type, or a column that is not read but may
                change what the row means (`mathsft.data.columns`).
        """
        counted = set() if counted is None else counted
        names: dict[str, Any] = {"where": where, "source": source, "counted": counted}
        return self.read_by(self.reader, row, columns=self.columns, **names, **how)

    def read_by(
        self,
        reader: Callable[..., Any],
        row: Row,
        *,
        columns: frozenset[str],
        where: str,
        source: str,
        counted: set[str],
        **how: Any,
    ) -> dict[str, Any]:
        """Like `read`, for rows in another format, which has its own reader and ``columns``."""
        taught = self.more.keys() & TEACHER_PROMPT
        check_columns(row, where=where, read=columns | taught, counted=counted, kind=self)
        if self.talk:
            how["counted"] = counted
        made: dict[str, Any] = reader(row, where=where, source=source, **how)
        return with_teacher_prompt(made, row, where=where) if taught else made

    def asks(self, row: Row) -> list[str]:
        """What a row asks: its question, prompt, or user's turns."""
        found = row.get(self.asks_in)
        if isinstance(found, list) and all(isinstance(turn, Mapping) for turn in found):
            return [content_text(t.get("content")) for t in found if t.get("role") == "user"]
        if not isinstance(found, str):
            raise ValueError(f"no text in {self.asks_in!r} of {row!r:.60}")
        return [found]


PROBLEM = RowKind(
    name="problem",
    features=FEATURES,
    told_by=("question",),
    asks_in="question",
    reader=from_own,
    more=TEACHER_PROMPT,
    example=lambda row: {
        "prompt": sft_prompt(row["question"]),
        "completion": sft_completion(row["solution"], row["answer"]),
    },
)
CHAT = RowKind(
    name="chat",
    features=CHAT_FEATURES,
    told_by=("messages",),
    asks_in="messages",
    reader=from_chat,
    example=lambda row: row,
    more=Features({**CHAT_COLUMNS, **TEACHER_PROMPT}),
    talk=frozenset({"messages"}),
)
PROMPT = RowKind(
    name="prompt",
    features=PROMPT_FEATURES,
    told_by=("prompt",),
    asks_in="prompt",
    reader=from_prompt_text,
    more=TEACHER_PROMPT,
    example=lambda row: row,
)
PREFERENCE = RowKind(
    name="preference",
    features=PREFERENCE_FEATURES,
    told_by=("chosen", "rejected"),
    asks_in="prompt",
    reader=read_preference,
    example=lambda row: answered(row, row["chosen"]),
    more=Features({**CHAT_COLUMNS, **MARGIN}),
    talk=frozenset({"prompt", "chosen", "rejected"}),
    # The prompt, if chosen and rejected are one object each; scores that decide nothing else.
    also=frozenset({"conversations"}.union(*SCORES)),
)
UNPAIRED = RowKind(
    name="unpaired",
    features=UNPAIRED_FEATURES,
    told_by=("prompt", "completion", "label"),
    asks_in="prompt",
    reader=read_unpaired,
    example=lambda row: answered(row, row["completion"]),
    more=CHAT_COLUMNS,
    talk=frozenset({"prompt", "completion"}),
)
GROUP = RowKind(
    name="group",
    features=GROUP_FEATURES,
    told_by=("completions", "rewards"),
    asks_in="prompt",
    reader=read_group,
    example=lambda row: answered(
        row, row["completions"][row["rewards"].index(max(row["rewards"]))]
    ),
    more=Features({**CHAT_COLUMNS, **ENDED}),
    talk=frozenset({"prompt", "completions"}),
)
# In the order in which `kind_of` checks them: the first three have a prompt column too.
KINDS = {kind.name: kind for kind in (PREFERENCE, GROUP, UNPAIRED, CHAT, PROMPT, PROBLEM)}


def kind_of(rows: Row | Dataset, *, where: str = "rows") -> RowKind:
    """The kind of a row, or of all ``rows`` of a data set.

    Raises ValueError (the message begins with ``where``) for a row of no known kind, and for a
    data set that holds several kinds.
    """
    if isinstance(rows, Dataset):
        kinds = kinds_in(rows.features) or ([kind_of(rows[0])] if len(rows) else [])
        if len(kinds) == 1:
            return kinds[0]
        found = " and ".join(kind.name for kind in kinds) or "no known kind"
        raise ValueError(f"{where}: expected one kind, found {found}: {rows.column_names}")
    for kind in KINDS.values():
        if kind.tells(rows):
            return kind
    told = ", or ".join(" and ".join(kind.told_by) for kind in KINDS.values())
    raise ValueError(f"{where}: a row of no known kind. It must have {told}; found {rows!r:.60}")


def kinds_in(columns: Iterable[str]) -> list[RowKind]:
    """The kinds whose columns are all present."""
    names = set(columns)
    found = [kind for kind in KINDS.values() if kind.features.keys() <= names]
    return [kind for kind in found if kind is not PROMPT or UNPAIRED not in found]


def asked(row: Row) -> list[str]:
    """What a row of any kind asks. Raises ValueError for a row that asks nothing."""
    return kind_of(row).asks(row)


def check_columns(
    row: Row, *, where: str, read: frozenset[str], counted: set[str], kind: RowKind
) -> None:
    """Count or refuse (ValueError) columns that are not ``read`` (`mathsft.data.columns`)."""
    made_of_turns = "messages" in kind.features and "instruction" not in read  # not Alpaca's
    refuse_half(row, where=where, read=read, talk=made_of_turns)
    paired = kind is PREFERENCE
    counted |= {f"column {name!r}" for name in unread(row, where=where, read=read, paired=paired)}
    # The label of an unpaired answer is data: its reader reads it.
    judged = {**row, "label": None} if kind is UNPAIRED else row
    refuse_untrained(judged, where=where, read=read)
