"""Make questions comparable: their keys, their templates, and questions inside instructions.

``qwedsacf/grade-school-math-instructions`` says "This math problem has got me stumped: …
Can you show me the way?". Its 8,792 rows are GSM8K's 7,473 train and 1,319 test questions. So
the reliable way is to look for GSM8K's own questions in the instruction; a rule on the wording
is the second choice. Rows that ask a test question are left out.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from mathsft.data.row_counts import RowCounts
from mathsft.data.schemas import Problem
from mathsft.data.sources import GSM8K, hub_rows, questions_of
from mathsft.data.text import reader_text

_WORD = re.compile(r"[^\W_]+")
_THOUSANDS = re.compile(r"(?<=\d)\s?,\s?(?=\d{3}(?!\d))")
_RUN = 5  # words; two different questions of GSM8K share few runs of this length
# Chat before or after a question names the task and speaks to someone.
_TASK = re.compile(
    r"\b(maths?|question|problem|puzzle|exercise|homework|solv(e|ing)|solution|answer|help|assist|"
    r"explain|(show|walk|guide|tell) me|figure|stuck|stumped|struggl(e|ing)|confused|lost|loss|"
    r"ideas?|think|thanks|thank you(?=\W*$)|appreciated?|trouble|this one|step by step|way)\b",
    re.IGNORECASE,
)
_SPEAKER = re.compile(
    r"\b(i|me|you|this|here|any|please|thanks|(any|some)(one|body))\b", re.IGNORECASE
)
_SENTENCE_END = re.compile(r"(?<=[.?!])\s+")
_LONGEST_CHAT = 25  # words
# Only 2 of 6,154 train questions of GSM8K hold this share of the word runs of one of 1,319
# others. So an instruction that does is taken for a test question with a word changed.
_NEARLY = 0.7
Questions = str | Path | Iterable[str]

_NUMBER = r"\d{1,3}(?:,\d{3})+(?!\d)|\d+(?:\.\d+)?|\.\d+"
_TOKEN = re.compile(rf"{_NUMBER}|[^\W\d_]+|[^\w\s]|_")


def question_key(question: str) -> str:
    """``question`` without details that a reader ignores: spelling of signs, case, spacing.

    See ``mathsft.data.text``. ``Rs. 1,200`` and ``rs . 1 , 200`` have the same key; ``3 + 2``
    and ``3 - 2``, or ``1.5`` and ``15``, do not.
    """
    return " ".join(_TOKEN.findall(comparable(question)))


def question_template(question: str) -> str:
    """``question`` in words with every number masked: ``3 pens at Rs. 40`` → ``# pens at rs . #``.

    A comma between spaces stays: ``1 , 200 and 300`` is read as a list, since most of them are.
    """
    tokens = _TOKEN.findall(reader_text(question))
    return " ".join("#" if token[-1].isdecimal() else token for token in tokens)


def comparable(text: str) -> str:
    """``text`` as a reader sees it (`reader_text`), without thousands commas."""
    return _THOUSANDS.sub("", reader_text(text))


def words_of(text: str) -> tuple[str, ...]:
    """The words of ``text`` in lower case: spelling counts, punctuation and spacing do not."""
    return tuple(_WORD.findall(comparable(text)))


class QuestionFinder:
    """Finds known questions inside longer texts.

    Each question is indexed by its runs of ``_RUN`` words. So a text costs as many look-ups as
    it has words, however many questions are known: 8,792 texts against 8,792 questions take a
    few seconds.
    """

    def __init__(self, questions: Iterable[str]) -> None:
        self._known = [(words_of(question), question) for question in questions]
        self._filed: dict[tuple[str, ...], set[int]] = {}
        for number, (words, _) in enumerate(self._known):
            for run in _runs(words):
                self._filed.setdefault(run, set()).add(number)

    def find(self, text: str, *, share: float = 1.0) -> str | None:
        """Find the longest known question with ``share`` of its runs of words in ``text``.

        With ``share=1.0``, ``text`` must contain the question word for word. Returns the known
        question (with its own spelling and punctuation), or None.
        """
        found = max(self._held(text, share), key=lambda known: len(known[0]), default=None)
        return found[1] if found else None

    def find_all(self, text: str) -> list[str]:
        """All known questions that ``text`` contains word for word, in their own spelling."""
        return [question for _, question in self._held(text, 1.0)]

    def _held(self, text: str, share: float) -> Iterator[tuple[tuple[str, ...], str]]:
        words = words_of(text)
        spaced = f" {' '.join(words)} "
        hits = Counter(number for run in _runs(words) for number in self._filed.get(run, ()))
        for number, count in hits.items():
            known, question = self._known[number]
            if count < share * len(_runs(known)):
                continue
            if share < 1 or f" {' '.join(known)} " in spaced:
                yield known, question


def _runs(words: tuple[str, ...]) -> set[tuple[str, ...]]:
    return {words[start : start + _RUN] for start in range(len(words) - _RUN + 1)}


def strip_chat(instruction: str) -> str:
    """``instruction`` without the chat around the question, recognised by its wording alone.

    Chat before the question ends with a colon or a full stop; chat after it is whole
    sentences. Either is removed only if it is short, holds no digit, names the task and
    speaks to someone. Anything else stays: an extra word is better than half a question.
    Of GSM8K's 7,473 bare train questions, it changes only a handful.
    """
    text = instruction.strip()
    lead, _, rest = text.partition(":")
    if rest.strip() and _is_chat(lead):
        text = rest.strip()
    gaps = [gap.span() for gap in _SENTENCE_END.finditer(text)]
    begins, ends = [0, *(end for _, end in gaps)], [*(begin for begin, _ in gaps), len(text)]
    first, last = 0, len(gaps)
    while first < last and _is_chat(text[begins[first] : ends[first]]):
        first += 1
    while first < last and _is_chat(text[begins[last] : ends[last]]):
        last -= 1
    return text[begins[first] : ends[last]]


def _is_chat(part: str) -> bool:
    if len(words_of(part)) > _LONGEST_CHAT or re.search("[0-9]", part):
        return False
    return bool(_TASK.search(part) and _SPEAKER.search(part))


def unwrap(
    problems: Iterable[tuple[int, Problem]],
    *,
    tally: RowCounts,
    test_questions: Questions | None,
    train_questions: Questions | None,
) -> Iterator[tuple[int, Problem]]:
    """Yield ``problems`` with the bare question; drop those with a GSM8K test question.

    An instruction that contains one of ``train_questions`` word for word becomes exactly that
    question. For others the wording decides (``strip_chat``). ``tally`` notes how many were
    handled in each way, so the summary shows whether to trust the result.

    Args:
        test_questions: default: GSM8K's test questions from the hub. Pass ``[]`` if the rows
            are known to contain none.
        train_questions: default: GSM8K's train questions from the hub, or none if the hub
            does not answer.

    Raises:
        ConnectionError: ``test_questions`` is not given and the hub does not deliver them.
    """
    hidden = QuestionFinder(_test(test_questions))
    known = QuestionFinder(_train(train_questions))
    for place, problem in problems:
        instruction = problem["question"]
        question = known.find(instruction)
        if hidden.find(instruction):
            tally.drop("GSM8K test question", place)
            continue
        if question is not None:
            tally.notes["chat stripped by GSM8K's own question"] += 1
        elif hidden.find(instruction, share=_NEARLY):
            tally.drop("nearly a GSM8K test question", place)
            continue
        else:
            question = strip_chat(instruction)
            found = question != instruction
            tally.notes[f"chat {'stripped by its wording' if found else 'not recognised'}"] += 1
        yield place, {**problem, "question": question}


def _test(given: Questions | None) -> list[str]:
    if given is not None:
        return questions_of(given)
    try:
        return _from_hub("test")
    except ConnectionError as error:
        raise ConnectionError(
            f"these instructions may contain GSM8K test questions, and the list that identifies "
            f"them is not available: {error}. Give test_questions= (a list of questions, or the "
            f"path of a local file with GSM8K's test rows; [] if there are certainly none)"
        ) from error


def _train(given: Questions | None) -> list[str]:
    if given is not None:
        return questions_of(given)
    try:
        return _from_hub("train")
    except ConnectionError:
        return []  # the summary then says "stripped by its wording"


def _from_hub(split: str) -> list[str]:
    return [row["question"] for _, row in hub_rows(*GSM8K, split=split)]
