"""Decontamination: leave out the rows that hold a question of a test, and say which.

A row is compared with every question in two ways, from strict to loose:

- *exact*: the row asks the question, or holds it word for word (`mathsft.data.known_questions`);
- *n-grams*: the row and the question share runs of n words. GPT-3 (Brown et al. 2020,
  https://arxiv.org/abs/2005.14165, appendix C) and lm-evaluation-harness call a text contaminated
  if it shares a single run of 13 words with a test. PaLM (https://arxiv.org/abs/2204.02311,
  section 8) asks for 70 % of a question's runs of 8 words.

Texts are compared in normal form (`question_key`); numbers and signs count as words.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from datasets import Dataset

from mathsft.checks import check_numbers, unknown_name
from mathsft.data.known_questions import KnownQuestions
from mathsft.data.questions import question_key, question_template
from mathsft.data.row_parts import By, Part
from mathsft.data.row_reports import check_report, excerpt, write_report
from mathsft.data.text_blocks import TextBlocks, listed, without
from mathsft.files import check_writable
from mathsft.processes import say

Kind = Literal["exact", "template", "n-grams"]
_COLUMNS = ("row", "test", "question", "kind", "share", "text", "asked")


@dataclass(frozen=True)
class Match:
    """A row that holds a question of a test.

    Attributes:
        row: the index of the row, from 0.
        test: the name of the test, such as a task's.
        question: the index of the question in the test, from 0; the nearest one, if several match.
        kind: the strictest way in which the two match.
        share: the share of the question's runs of words that the row holds, above 0 and at most 1.
        text: the begin of the row's text.
        asked: the begin of the question.
    """

    row: int
    test: str
    question: int
    kind: Kind
    share: float
    text: str
    asked: str


@dataclass(frozen=True)
class Decontaminated:
    """What `remove_questions` found; ``print`` it to see the counts.

    Attributes:
        rows: the rows without a question of a test: a data set if one was given, else a list.
        read: how many rows were given.
        matches: for each row that is left out and each test that it touches, the nearest question.
        tests: how many questions each test has.
        short: how many questions have fewer than ``n`` words; they are compared as a whole only.
        how: the settings, in words.
        not_compared: how many rows were kept without being compared, by reason.
    """

    rows: Any
    read: int
    matches: list[Match]
    tests: dict[str, int]
    short: int
    how: str
    not_compared: Counter[str] = field(default_factory=Counter)

    def save(self, file: str | Path) -> Path:
        """Write the matches to ``file`` (.jsonl or .csv), one line each."""
        return write_report(file, [dict(vars(match)) for match in self.matches], _COLUMNS)

    def __str__(self) -> str:
        left = len({match.row for match in self.matches})
        lines = [
            f"decontaminate: {self.read:,} rows read, {self.read - left:,} kept; {left:,} left out "
            f"({self.how})"
        ]
        for test, questions in self.tests.items():
            kinds = Counter(match.kind for match in self.matches if match.test == test)
            told = ", ".join(f"{kind} {count:,}" for kind, count in kinds.most_common())
            lines.append(f"{test}, {questions:,} questions: {told or 'no row holds one'}")
        if self.short:
            lines.append(f"{self.short:,} shorter questions were compared as a whole only")
        if self.not_compared:
            odd = [f"{count:,} {why}" for why, count in self.not_compared.most_common()]
            lines.append(f"kept without being compared: {', '.join(odd)}")
        return "; ".join(lines)


def remove_questions(
    rows: Dataset | Iterable[Mapping[str, Any]],
    tests: Mapping[str, Sequence[str]],
    *,
    by: By = "all",
    n: int = 13,
    threshold: float | None = None,
    templates: bool = False,
    batch_size: int = 1000,
    report: str | Path | None = None,
) -> Decontaminated:
    """Leave out the rows that hold a question of a test; print how many, and of which test.

    Args:
        rows: rows of any kind, as `mathsft.data.deduplication.deduplicate` reads them.
        tests: the questions of each test, by the name of the test.
        by: "all" looks into everything that a row says, also its answers; "question" only into
            what it asks.
        n: words in a run. 13 is the number of GPT-3 and of lm-evaluation-harness.
        threshold: the share of a question's runs that a row must hold. Default: one run is enough.
            Questions made from templates share long runs with many others: for those, n=8 and
            threshold=0.7 (PaLM) tell a copy from a relative.
        templates: also leave out rows that equal a question except for its numbers.
        batch_size: rows that are read at once; the result does not depend on it.
        report: a file (.jsonl or .csv) for the matches, one line each (`Match`).

    Raises:
        ValueError: no rows, a stream, a row that is not readable; no test, or one without
            questions; n or a threshold that is impossible; a report with another suffix.
    """
    if by not in ("question", "all"):
        raise ValueError(f"decontaminate: {unknown_name('by', str(by), ['question', 'all'])}")
    check_numbers({"n": n, "threshold": threshold, "batch_size": batch_size})
    if report is not None:
        check_writable(check_report(report).parent)
    given = listed(rows, name="decontaminate")
    known = _Known(tests, n=n, threshold=threshold, templates=templates)
    texts = TextBlocks(given, by=by, size=batch_size, name="decontaminate")
    matches = [match for row, parts in texts.parts() for match in known.matches(row, parts)]
    needed = "one common run" if threshold is None else f"{threshold:.0%} of the runs"
    found = Decontaminated(
        rows=without(given, {match.row for match in matches}),
        read=len(given),
        matches=matches,
        tests={test: len(questions) for test, questions in tests.items()},
        short=known.short,
        how=f"the same question{' or template' * templates}, or {needed} of {n} words",
        not_compared=texts.odd,
    )
    say(str(found))
    if report is not None:
        say(f"the matches: {found.save(report)}")
    return found


class _Known:
    """The questions of all tests, by their text, their template and their runs of words."""

    def __init__(
        self,
        tests: Mapping[str, Sequence[str]],
        *,
        n: int,
        threshold: float | None,
        templates: bool,
    ) -> None:
        self.n, self.least = n, threshold or 0.0
        self.asked = [
            (test, number, question)
            for test, questions in tests.items()
            for number, question in enumerate(questions)
        ]
        for test in tests or ["no test is given"]:
            if not tests.get(test):
                raise ValueError(f"decontaminate: {test}: there are no questions")
        keys = [question_key(question) for _, _, question in self.asked]
        self.by_key: dict[str, list[int]] = defaultdict(list)
        self.by_template: dict[str, list[int]] = defaultdict(list)
        self.by_run: dict[str, list[int]] = defaultdict(list)
        self.runs = []
        for at, key in enumerate(keys):
            self.by_key[key].append(at)
            if templates:
                self.by_template[question_template(self.asked[at][2])].append(at)
            runs = set(_runs(key, n))
            self.runs.append(len(runs))
            for run in runs:
                self.by_run[run].append(at)
        self.by_key.pop("", None)
        self.short = self.runs.count(0)
        self.known = KnownQuestions(question for _, _, question in self.asked)

    def matches(self, row: int, parts: Sequence[Part]) -> Iterator[Match]:
        """The nearest question of each test that the row holds."""
        kinds: dict[int, Kind] = {}
        held: Counter[int] = Counter()
        for run in {run for _, text in parts for run in _runs(question_key(text), self.n)}:
            held.update(self.by_run.get(run, ()))
        for at, count in held.items():
            if count / self.runs[at] >= self.least:
                kinds[at] = "n-grams"
        for _, text in parts:
            for at in self.by_template.get(question_template(text), ()) if self.by_template else ():
                kinds[at] = "template"
        for _, text in parts:
            for question in self.known.find(text):
                kinds.update(dict.fromkeys(self.by_key.get(question_key(question), ()), "exact"))
        best: dict[str, tuple[int, float, int]] = {}
        for at, kind in kinds.items():
            share = 1.0 if kind == "exact" else held[at] / max(self.runs[at], 1)
            rank = (_RANK[kind], share, -at)
            test = self.asked[at][0]
            best[test] = max(best.get(test, rank), rank)
        for _, share, negative in best.values():
            test, number, question = self.asked[-negative]
            told = excerpt(text for _, text in parts)
            yield Match(row, test, number, kinds[-negative], share, told, excerpt([question]))


_RANK = {"n-grams": 0, "template": 1, "exact": 2}


def _runs(key: str, n: int) -> Iterator[str]:
    words = key.split()
    return (" ".join(words[start : start + n]) for start in range(len(words) - n + 1))
