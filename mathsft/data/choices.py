"""Make five choices for a problem that has an answer but no choices.

**No shortcut in the choices** means: from the five values alone, each is equally likely to be
right. This holds exactly if each value x is a distractor four times as often as it is an answer.
So the choices are drawn as follows. The numbers are divided into cells of similar size and
roundness, with boundaries that are random but independent of the answer. The distractors come
from the answer's cell. A set of five is drawn with probability proportional to the product of
its members' *odds* (conditional Poisson sampling). The odds are computed so that x is in the
set five times as often as it is the answer.

How often a number is an answer is known approximately. This *law of answers* is a formula with
a few constants, fitted to GSM8K; the generated problems have another, because GSM8K's answers
are rounder. Two more things are not exact. Results of slips in the problem's own solution are
favoured, and slips are not symmetric: a slip in 3 * 12 may give 15, but a slip in a step that
gives 15 seldom gives 36. And no odds exist if one number is the answer to more than a fifth of
a cell's problems; such a number is put into at most 93 % of the sets. The rest is measured (in
``tests/test_choice_shortcuts.py``): boosted trees that see only the choices find the right one
in 21.3 % of GSM8K's problems instead of 20 %.
"""

import hashlib
import random
import re
from fractions import Fraction
from functools import lru_cache
from itertools import accumulate

from datasets import Dataset

from mathsft.checks import check_numbers
from mathsft.data.distractors import Law, grade_school_law, kind_of, read_steps, slips, tiny_law
from mathsft.data.given import check_dataset
from mathsft.data.numerals import MAX_DIGITS
from mathsft.data.problems import FEATURES
from mathsft.data.row_counts import RowCounts, refuse_stream
from mathsft.data.schemas import UnusableRowError
from mathsft.processes import say

_PLAIN = re.compile(
    r"(?P<before>-?[$€£]?)(?P<whole>\d{1,3}(?:,\d{3})+|\d+)(?:\.(?P<decimals>\d+))?(?P<after>%?)"
)
_SHIFTS = 8  # positions of the cells' boundaries; only a few, so that cells can be cached
_GROWTH = 2.2  # approximate ratio of the ends of a cell
_ENOUGH = 14  # a kind of number with so many members in a cell gets a group of its own
_WIDEST = 400  # numbers in a cell; wider cells are cut, so that large answers have near distractors
_SLIP = 2.0  # how much a slip's result is favoured. A higher value teaches more and reveals more:
# on GSM8K the classifier of the tests is about 1.3 points above chance at 2, and 2.5 at 3


def _cell(lead: int, zeros: int, shift: float) -> tuple[int, int]:
    """The cell of ``lead``, from low to below high; ``lead`` does not move the boundaries."""
    middle, first = ((20, 18), (6, 16), (3, 16), (2, 16))[min(zeros, 3)]
    low, high = 1, int((first + middle) * _GROWTH**shift) - middle
    while high <= lead:
        low, high = high, int((high + middle) * Fraction(_GROWTH)) - middle
    parts = max(1, 2 * (high - low) // _WIDEST)
    part = (lead - low) * parts // (high - low)
    return low + -(-(high - low) * part // parts), low + -(-(high - low) * (part + 1) // parts)


@lru_cache(maxsize=4096)
def _groups(low: int, high: int) -> dict[int, tuple[int, ...]]:
    """Map each number of a cell to the numbers it may be mixed with: those of its kind.

    Kinds with few members share a group. Multiples of ten are left out: they have more ``zeros``.
    """
    kinds: dict[int, list[int]] = {}
    for lead in range(low, high):
        if lead % 10:
            kinds.setdefault(kind_of(lead), []).append(lead)
    groups = [members for members in kinds.values() if len(members) >= _ENOUGH]
    rest = sorted(lead for members in kinds.values() if len(members) < _ENOUGH for lead in members)
    if len(rest) >= _ENOUGH or not groups:
        groups.append(rest)
    else:
        groups[0] = sorted(groups[0] + rest)
    return {lead: tuple(members) for members in groups for lead in members}


@lru_cache(maxsize=4096)
def _odds(group: tuple[int, ...], zeros: int, law: Law) -> list[float]:
    """Odds that put each member into sets of five in proportion to how often it is an answer."""
    wanted = [max(law(lead, zeros), 1e-300) for lead in group]  # if all are 0, all are equal
    for _ in range(20):  # odds exist only if no member is in a set always or never
        total = sum(wanted)
        wanted = [min(0.93, max(0.005, 5 * share / total)) for share in wanted]
    odds = [share / (1 - share) for share in wanted]
    for _ in range(15):
        ways = [1.0, 0.0, 0.0, 0.0, 0.0, 0.0]  # ways[k]: the weight of all sets of k
        for own in odds:
            for k in range(5, 0, -1):
                ways[k] += own * ways[k - 1]
        now = []
        for own in odds:
            without = 1.0  # the weight of all sets of k without this one, for k = 0, 1, … 4
            for k in range(1, 5):
                without = ways[k] - own * without
            now.append(own * without / ways[5])
        odds = [old * share / is_ for old, share, is_ in zip(odds, wanted, now, strict=True)]
    return odds


def _write(number: int, form: re.Match[str]) -> str:
    """Write ``number``, in units of the answer's last decimal, in the answer's format."""
    places = len(form["decimals"] or "")
    digits = str(number).rjust(places + 1, "0")
    whole, decimals = digits[: len(digits) - places], digits[len(digits) - places :]
    if "," in form["whole"]:
        whole = f"{int(whole):,}"
    return form["before"] + whole + ("." + decimals if decimals else "") + form["after"]


def make_choices(
    question: str, solution: str, answer: str, *, seed: int = 0, law: Law = grade_school_law
) -> tuple[list[str], int]:
    """Return five choices of different value, one of them exactly ``answer``, and its index.

    The others have the answer's sign, currency or percent sign, number of decimals and
    trailing zeros. They depend on the arguments only, not on any random state.

    Args:
        question: the bare question; with ``seed`` it determines every draw.
        solution: the worked solution; slips in its calculations are favoured as distractors.
        answer: a plain number such as ``72``, ``-4``, ``1,200``, ``$3.50`` or ``25%``.
        seed: another seed gives other choices.
        law: how often a number is the answer to such a problem, up to a constant factor.

    Raises:
        UnusableRowError: the answer is empty, 0, a fraction, not a plain number, or has more than
            40 digits. (Zero is never drawn as a distractor: as a choice it would always be the
            right one.)
    """
    if not answer:
        raise UnusableRowError("no answer")
    if re.fullmatch(r"-?\d+/\d+", answer):
        raise UnusableRowError("answer is a fraction")
    form = _PLAIN.fullmatch(answer)
    if form is None:
        raise UnusableRowError("answer is not a plain number")
    decimals = form["decimals"] or ""
    digits = (form["whole"].replace(",", "") + decimals).lstrip("0")
    if not digits:
        raise UnusableRowError("answer is 0")
    if len(digits) > MAX_DIGITS:
        raise UnusableRowError(f"answer has more than {MAX_DIGITS} digits")
    zeros = len(digits) - len(digits.rstrip("0"))
    own = int(digits.rstrip("0"))
    key = hashlib.sha256(f"{seed}\n{question}".encode()).digest()
    rng = random.Random(int.from_bytes(key, "big"))
    group = _groups(*_cell(own, zeros, rng.randrange(_SHIFTS) / _SHIFTS))[own]
    scale = Fraction(10 ** len(decimals), 10**zeros)
    target = Fraction(own) / scale
    favoured = {value * scale for value in slips(read_steps(solution), target)}
    odds = _odds(group, zeros, law)
    weights = [
        0.0 if lead == own else weight * (_SLIP if lead in favoured else 1)
        for lead, weight in zip(group, odds, strict=True)
    ]
    sums = list(accumulate(weights))
    leads: set[int] = set()
    while len(leads) < 4:  # all four again: drawing one by one would favour the small odds
        leads = set(rng.choices(group, cum_weights=sums, k=4))
    texts = [_write(lead * 10**zeros, form) for lead in sorted(leads)] + [answer]
    rng.shuffle(texts)
    return texts, texts.index(answer)


# The generated problems have other answers than GSM8K. Every other source gets the default law,
# which is free of shortcuts only as far as the answers are like GSM8K's.
_LAWS: dict[str, Law] = {"tiny-gsm": tiny_law}


def add_choices(problems: Dataset, *, seed: int = 0) -> Dataset:
    """Add five choices to each problem that has none; prints one line with the counts.

    Problems that have choices stay as they are. Problems for which no choices can be made are
    dropped and counted: no answer, 0, a fraction, not a plain number. A row's choices depend
    only on the row and ``seed``, not on its place or on other rows; the global random state is
    neither read nor changed.

    Args:
        problems: in the schema of ``load_problems``.
        seed: another seed gives other choices.

    Raises:
        ValueError: another schema, no problem left, or a seed below 0.
    """
    check_numbers({"seed": seed})
    refuse_stream(problems, name="add_choices")
    check_dataset(problems, name="add_choices")
    missing = [name for name in FEATURES if name not in problems.column_names]
    if missing:
        raise ValueError(
            f"add_choices: column {missing[0]!r} is missing; the dataset has "
            f"{', '.join(problems.column_names) or 'no columns'}. Read it with load_problems"
        )
    tally = RowCounts(read=len(problems))
    tally.notes.update({"choices made": 0, "had choices": 0})
    rows = []
    for place, row in enumerate(problems, start=1):
        if row["question"] is None:
            raise ValueError(
                f"add_choices: row {place} is a conversation or a prompt, and has no choices: call "
                "add_choices before mix_datasets"
            )
        if row["choices"]:
            tally.notes["had choices"] += 1
            rows.append(row)
            continue
        law = _LAWS.get(row["source"], grade_school_law)
        try:
            row["choices"], row["label"] = make_choices(
                row["question"], row["solution"], row["answer"], seed=seed, law=law
            )
        except UnusableRowError as reason:
            tally.drop(str(reason), place)
            continue
        tally.notes["choices made"] += 1
        rows.append(row)
    line = tally.line("choices")
    if not rows:
        raise ValueError(f"add_choices: no problem left; {line}")
    say(line)
    return Dataset.from_list(rows, features=FEATURES)
