"""Grade-school problems of one to three steps, in GSM8K's schema and style.

A problem is a beginning (which sets a quantity), up to two events (which change
it) and a question. Each part adds its sentence. If it calculates, it also adds a
line of the worked solution, with the calculator mark ``<<3*4=12>>``.
"""

import random
from dataclasses import dataclass

from mathsft.data.synthetic import rows_of_split

_PEOPLE = [
    ("Ann", "she"), ("Ben", "he"), ("Carla", "she"), ("Dan", "he"), ("Eva", "she"),
    ("Finn", "he"), ("Grace", "she"), ("Hugo", "he"), ("Ida", "she"), ("Jack", "he"),
    ("Kim", "she"), ("Leo", "he"), ("Maya", "she"), ("Noah", "he"), ("Olga", "she"),
    ("Paul", "he"), ("Rosa", "she"), ("Sam", "he"),
]  # fmt: skip
_THINGS = [
    "apples", "marbles", "stickers", "cards", "shells", "pencils", "cookies", "stamps",
    "coins", "beads", "books", "eggs", "plums", "flowers", "buttons", "stones",
]  # fmt: skip
_BOXES = ["box", "bag", "basket", "jar", "pack"]
_LARGEST = 150  # a small model can learn sums of this size; the lessons are about training


@dataclass
class _Story:
    """The problem so far: its sentences, its worked lines and the current quantity."""

    rng: random.Random
    name: str
    pronoun: str
    friend: str
    things: str
    said: list[str]
    worked: list[str]
    now: int = 0
    money: bool = False

    def calculate(self, left: int, sign: str, right: int) -> str:
        result = {"+": left + right, "-": left - right, "*": left * right, "/": left // right}[sign]
        self.now = result
        dollars = "$" if self.money else ""
        return f"{left} {sign} {right} = {dollars}<<{left}{sign}{right}={result}>>{result}"


def _has(story: _Story) -> None:
    story.now = story.rng.randint(5, 60)
    story.said.append(f"{story.name} has {story.now} {story.things}.")


def _boxes(story: _Story) -> None:
    count, each = story.rng.randint(2, 12), story.rng.randint(2, 12)
    box = story.rng.choice(_BOXES)
    plural = f"{box}es" if box == "box" else f"{box}s"
    story.said.append(
        f"{story.name} buys {count} {plural} of {story.things} with {each} in each {box}."
    )
    line = story.calculate(count, "*", each)
    story.worked.append(f"{story.name} buys {line} {story.things}.")


def _two_times_of_day(story: _Story) -> None:
    first, second = story.rng.randint(3, 50), story.rng.randint(3, 50)
    story.said.append(
        f"{story.name} finds {first} {story.things} in the morning and {second} in the afternoon."
    )
    story.worked.append(f"{story.name} finds {story.calculate(first, '+', second)} {story.things}.")


def _times_as_many(story: _Story) -> None:
    fewer, factor = story.rng.randint(3, 20), story.rng.randint(2, 6)
    story.said.append(
        f"{story.friend} has {fewer} {story.things} "
        f"and {story.name} has {factor} times as many as {story.friend}."
    )
    story.worked.append(f"{story.name} has {story.calculate(fewer, '*', factor)} {story.things}.")


def _daily(story: _Story) -> None:
    days, each = story.rng.randint(2, 12), story.rng.randint(2, 12)
    story.said.append(f"{story.name} collects {each} {story.things} a day for {days} days.")
    story.worked.append(f"{story.name} collects {story.calculate(each, '*', days)} {story.things}.")


def _gets_more(story: _Story) -> None:
    more = story.rng.randint(2, 40)
    story.said.append(f"Then {story.pronoun} gets {more} more.")
    story.worked.append(f"Now {story.pronoun} has {story.calculate(story.now, '+', more)}.")


def _gives_away(story: _Story) -> None:
    fewer = story.rng.randint(1, max(1, story.now - 2))
    verb = story.rng.choice(["gives", "loses", "sells"])
    to = f" to {story.friend}" if verb == "gives" else ""
    story.said.append(f"Then {story.pronoun} {verb} {fewer} of them{to}.")
    left = story.calculate(story.now, "-", fewer)
    story.worked.append(f"After that {story.pronoun} has {left}.")


def _ask_how_many(story: _Story) -> None:
    story.said.append(f"How many {story.things} does {story.name} have now?")


def _ask_price(story: _Story) -> None:
    price = story.rng.randint(2, 5)
    story.said.append(
        f"If {story.pronoun} sells all of them for ${price} each, "
        f"how many dollars does {story.pronoun} get?"
    )
    story.money = True
    line = story.calculate(story.now, "*", price)
    story.worked.append(f"{story.name} gets {line}.")


def _ask_share(story: _Story) -> None:
    parts = [n for n in range(2, 11) if story.now % n == 0]
    if not parts:  # no divisor up to 10: cannot be shared equally
        return _ask_how_many(story)
    friends = story.rng.choice(parts)
    story.said.append(
        f"If {story.pronoun} shares them equally among {friends} friends, "
        f"how many does each friend get?"
    )
    story.worked.append(f"Each friend gets {story.calculate(story.now, '/', friends)}.")
    return None


_BEGINNINGS = (_has, _boxes, _two_times_of_day, _times_as_many, _daily)
_EVENTS = (_gets_more, _gives_away)
_QUESTIONS = (_ask_how_many, _ask_how_many, _ask_price, _ask_share)


def _make_row(rng: random.Random) -> dict[str, str]:
    """One problem as GSM8K writes it: ``question`` and ``answer`` (marks, then ``#### N``)."""
    while True:
        (name, pronoun), (friend, _) = rng.sample(_PEOPLE, 2)
        story = _Story(rng, name, pronoun, friend, rng.choice(_THINGS), said=[], worked=[])
        rng.choice(_BEGINNINGS)(story)
        largest = story.now
        for event in rng.sample(_EVENTS, rng.choice([0, 1, 1, 2])):
            event(story)
            largest = max(largest, story.now)
        rng.choice(_QUESTIONS)(story)
        if story.worked and len(story.worked) <= 3 and max(largest, story.now) <= _LARGEST:
            return {
                "question": " ".join(story.said),
                "answer": "\n".join([*story.worked, f"#### {story.now}"]),
            }


def tiny_gsm_rows(split: str = "train", limit: int | None = None) -> list[dict[str, str]]:
    """Return ``{"question", "answer"}`` rows; deterministic, no question in two splits.

    Args:
        split: ``train``, ``validation``, ``test`` or ``pretrain``.
        limit: number of rows; None takes 4,000 / 500 / 1,000 (``pretrain`` has no default).

    Raises:
        ValueError: unknown split, or no limit for ``pretrain``.
    """
    return rows_of_split(
        _make_row, question_key="question", split=split, limit=limit, seed="tiny-gsm"
    )
