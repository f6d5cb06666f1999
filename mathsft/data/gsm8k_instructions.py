"""The question inside a chat instruction, and no GSM8K test question among them.

The hub's grade-school-math instructions have 8,792 rows: GSM8K's 7,473 train and 1,319
test questions, each wrapped in chat.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

from mathsft.data.questions import QuestionFinder, strip_chat
from mathsft.data.schemas import Problem
from mathsft.data.sources import GSM8K, hub_rows, questions_of
from mathsft.data.tally import Tally

# Of GSM8K's train questions 2 of 6,154 hold this share of the word runs of one of 1,319
# others: an instruction that does is a test question with a word changed.
_NEARLY = 0.7

Questions = str | Path | Iterable[str]


def unwrap(
    problems: Iterable[tuple[int, Problem]],
    *,
    tally: Tally,
    test_questions: Questions | None,
    train_questions: Questions | None,
) -> Iterator[tuple[int, Problem]]:
    """``problems`` with the bare question, without those that hold a GSM8K test question.

    An instruction that holds one of ``train_questions`` word for word becomes that
    question, exactly. For others the wording decides (``strip_chat``); how many went which
    way is noted in ``tally``, so that a look at the summary tells whether to trust it.

    Args:
        test_questions: default GSM8K's test questions from the hub; ``[]`` where the rows
            are known to hold none.
        train_questions: default GSM8K's train questions from the hub, none where the hub
            does not answer.

    Raises:
        ConnectionError: ``test_questions`` is not given and the hub does not have them.
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
            f"these instructions may hold GSM8K test questions, and the list to tell them by "
            f"is not to be had: {error}. Give test_questions= (a list of questions, or the "
            f"path of a local file with GSM8K's test rows; [] if there are surely none)"
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
