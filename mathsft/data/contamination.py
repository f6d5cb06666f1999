"""Which test questions are also in a training set.

Three measures, from strict to loose: the same question; the same question when its numbers are
masked (a *template*); and the share of a test question's runs of n words (numbers and signs
count as words) that occur anywhere in the training set. All three need only one pass over the
training rows. Only the test rows must fit into memory.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from datasets import Dataset, IterableDataset

from mathsft.checks import check_numbers
from mathsft.data.given import check_row, check_rows
from mathsft.data.known_questions import KnownQuestions
from mathsft.data.questions import question_key, question_template
from mathsft.data.rows import KINDS, PROBLEM, asked
from mathsft.processes import say

Problems: TypeAlias = Dataset | Iterable[Mapping[str, Any]]
Kind = Literal["exact", "template", "n-grams"]

# The columns that show what a row asks and its kind; those that may hold more than a question.
_ASKING = sorted({name for kind in KINDS.values() for name in (kind.asks_in, *kind.told_by)})
_WRAPPED = {kind.asks_in for kind in KINDS.values() if kind is not PROBLEM}


def questions_in(problems: Problems, *, name: str) -> Iterator[list[str]]:
    """Yield what each row asks: its question, its prompt, or its conversation's user turns.

    A data set on disk is read in slices, these columns only. Raises ValueError if the problems
    are not rows that ask something; the message calls them ``name``.
    """
    if isinstance(problems, Dataset):
        columns = [column for column in _ASKING if column in problems.column_names]
        if not any(kind.asks_in in columns for kind in KINDS.values()):
            raise _no_problems(name, f"a data set with the columns {problems.column_names}")
        for part in problems.select_columns(columns).with_format(None).iter(batch_size=1000):
            for values in zip(*(part[column] for column in columns), strict=True):
                yield asked(dict(zip(columns, values, strict=True)))
        return
    check_rows(problems, name=name)
    for place, problem in enumerate(problems):
        check_row(problem, where=f"{name}, row {place}")
        try:
            yield asked(problem)
        except ValueError:
            raise _no_problems(f"{name}, row {place}", f"{problem!r:.60}") from None


def rows_asking(train: Problems, apart: Iterable[str], *, name: str) -> list[int]:
    """Return the indices of the rows of ``train`` that ask a question of ``apart``.

    A problem asks it if the two are equal (`question_key`). A user's turn or a prompt may hold
    more text, so in a data set with such rows it is enough if a row contains the question.
    """
    asks = _asker(apart, train)
    rows = enumerate(questions_in(train, name=name))
    return [row for row, texts in rows if any(map(asks, texts))]


def _asker(apart: Iterable[str], train: Problems) -> Callable[[str], bool]:
    plain = isinstance(train, Dataset) and not _WRAPPED & set(train.column_names)
    known = KnownQuestions(apart, inside=not plain)
    return lambda text: bool(known.find(text))


def _no_problems(name: str, found: str) -> ValueError:
    return ValueError(
        f"{name}: expected rows with a question, found {found}. Read them with load_problems; "
        "give one split of a DatasetDict"
    )


@dataclass(frozen=True)
class Overlap:
    """What `overlap` found; ``print`` it to see counts and shares.

    ``exact``, ``template`` and ``nearest`` hold for each test row the index of a training row:
    the first with the same question, the first with the same template, and the one with most of
    its runs of words; -1 if there is none. ``containment`` is the share of its runs of ``n``
    words that occur in training, 0 to 1.
    """

    train_rows: int
    n: int
    threshold: float
    exact: list[int]
    template: list[int]
    nearest: list[int]
    containment: list[float]

    def touched(self, kind: Kind) -> list[bool]:
        """Return for each test row whether this measure finds it in training."""
        if kind == "n-grams":
            return [share >= self.threshold for share in self.containment]
        return [row >= 0 for row in {"exact": self.exact, "template": self.template}[kind]]

    @property
    def counts(self) -> dict[Kind, int]:
        """The number of test rows that each measure finds in training."""
        kinds: tuple[Kind, ...] = ("exact", "template", "n-grams")
        return {kind: sum(self.touched(kind)) for kind in kinds}

    def examples(
        self, train: Dataset, test: Dataset, *, kind: Kind = "template", limit: int = 3
    ) -> list[tuple[str, str]]:
        """Return pairs of questions (from training, from the test) for the first rows found."""
        check_numbers({"limit": limit})
        rows = {"exact": self.exact, "template": self.template, "n-grams": self.nearest}[kind]
        touched = [i for i, yes in enumerate(self.touched(kind)) if yes][:limit]
        return [("\n".join(asked(train[rows[i]])), "\n".join(asked(test[i]))) for i in touched]

    def split(self, test: Dataset) -> tuple[Dataset, Dataset]:
        """Split ``test`` into the rows whose template is in training, and the other rows.

        Raises ValueError if ``test`` does not have the length of the test that was compared.
        """
        if len(test) != len(self.template):
            raise ValueError(
                f"{len(test)} test rows, but the overlap has {len(self.template)}: give the same "
                "test to both"
            )
        seen = [i for i, row in enumerate(self.template) if row >= 0]
        unseen = [i for i, row in enumerate(self.template) if row < 0]
        return test.select(seen), test.select(unseen)

    def __str__(self) -> str:
        tests = len(self.exact)
        meaning = {
            "exact": "the same question",
            "template": "the same question except for its numbers",
            "n-grams": f"{self.threshold:.0%} or more of its runs of {self.n} words",
        }
        lines = [f"of {tests:,} test questions, {self.train_rows:,} training rows contain:"]
        for kind, count in self.counts.items():
            lines.append(f"{count:>7,}  ({count / tests:>6.1%})  {meaning[kind]}")
        return "\n".join(lines)


def overlap(train: Problems, test: Problems, *, n: int = 8, threshold: float = 0.7) -> Overlap:
    """Measure how much of ``test`` is in ``train``: by question, template and runs of words.

    Args:
        train: rows of `load_problems`; read once, in order. Each user turn of a conversation
            counts as a question.
        test: likewise, but all user turns of a conversation together count as one question.
        n: words in a run. With ``threshold`` this is the measure of PaLM (Chowdhery et al. 2022,
            https://arxiv.org/abs/2204.02311, section 8): 8 words, and a question counts as
            found if 70 % of its runs occur in training. A question of fewer words counts as
            contained if training has exactly this question.
        threshold: see ``n``.

    Raises:
        ValueError: no test row, n < 1, or a threshold that is not a share.
    """
    check_numbers({"n": n, "threshold": threshold})
    questions = ["\n".join(texts) for texts in questions_in(test, name="overlap's test")]
    if not questions:
        raise ValueError("overlap: there are no test rows")
    keys, templates = list(map(question_key, questions)), list(map(question_template, questions))
    runs = [set(_runs(key.split(), n)) for key in keys]
    by_key, by_template = dict.fromkeys(keys, -1), dict.fromkeys(templates, -1)
    by_run = dict.fromkeys((run for some in runs for run in some), -1)
    row = -1
    for row, texts in enumerate(questions_in(train, name="overlap's train")):
        for question in texts:
            key = question_key(question)
            for found, what in ((by_key, key), (by_template, question_template(question))):
                if found.get(what) == -1:
                    found[what] = row
            for run in _runs(key.split(), n):
                if by_run.get(run) == -1:
                    by_run[run] = row
    exact = [by_key[key] for key in keys]
    where = [Counter(by_run[run] for run in some if by_run[run] >= 0) for some in runs]
    return Overlap(
        train_rows=row + 1,
        n=n,
        threshold=threshold,
        exact=exact,
        template=[by_template[masked] for masked in templates],
        nearest=[
            rows.most_common(1)[0][0] if rows else same
            for rows, same in zip(where, exact, strict=True)
        ],
        containment=[
            rows.total() / len(some) if some else float(same >= 0)
            for rows, some, same in zip(where, runs, exact, strict=True)
        ],
    )


def _runs(words: list[str], n: int) -> Iterator[tuple[str, ...]]:
    return zip(*(words[start:] for start in range(n)), strict=False)


def without_test_rows(
    train: Dataset | IterableDataset, test: Problems, *, templates: bool = False
) -> Dataset | IterableDataset:
    """Leave out the rows of ``train`` that ask a question of ``test``; prints their number.

    With ``templates``, rows that equal a test question except for its numbers are left out too.
    Then no training row has a template of ``test``. ``test`` may be any rows whose questions should
    not be in ``train``. A stream is read once for the count, and again as its rows are taken.
    """
    apart = [question for texts in questions_in(test, name="test") for question in texts]
    what, key = ("template", question_template) if templates else ("question", question_key)
    asks, masked = _asker(apart, train), set(map(question_template, apart)) if templates else set()

    def kept(texts: Iterable[str]) -> bool:
        return not any(
            asks(text) or (templates and question_template(text) in masked) for text in texts
        )

    there = list(map(kept, questions_in(train, name="train")))
    say(
        f"{there.count(False):,} of {len(there):,} rows left out: their {what} is one of the "
        f"{len(set(map(key, apart))):,} to exclude"
    )
    if isinstance(train, IterableDataset):
        return train.filter(lambda row: kept(asked(row)))
    return train.select([row for row, stays in enumerate(there) if stays])
