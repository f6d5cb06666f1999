"""Which answer a completion claims. A claim is marked, and there is one: several are none.

`mathsft.data.answers.extract_answer` reads as an evaluation does: it forgives, and finds an answer
in any solution. A reward must not forgive, because the model that is trained looks for what pays.
"""

import math
import re
import threading
from typing import Any

from mathsft.data.answers import reference_answer

_ANY_TAG = re.compile(r"<\s*(?:/\s*)?(?:think|answer)\b[^<>]*>", re.IGNORECASE)
_TAGS = ["<think>", "</think>", "<answer>", "</answer>"]
_THOUGHT_AND_ANSWER = re.compile(r"\s*<think>(.*)</think>\s*<answer>(.*)</answer>\s*", re.DOTALL)
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_HASHES = re.compile(r"#{4,}((?:(?!####)[^\n])*)")
# "#### Step 1" and "#### 2. Add the numbers" are headings, not answers.
_HEADING = re.compile(r"[^\w\\]*[^\W\d_]{2}|\s*\d{1,2}[.):]\s+[^\W\d_]")
_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_MARK = re.compile(rf"####|{_BOX.pattern}")
_AFTER_BOX = re.compile(r"(?:[\s.$]|\\[\])])*")
# math-verify would read "18 19" as 1819, and the time "10:30" as 1/3.
_GAP = re.compile(r"\d\s+\d|\d\s*:\s*\d")
_ENVIRONMENT = re.compile(r"\\(?:begin|end)\{\w+\}")
# A word that is no LaTeX command: math-verify would read "no solution" as a product of letters.
_WORD = re.compile(r"(?<![\\A-Za-z])(?:[A-Za-z]{3,}|or)(?![A-Za-z])")

# What math-verify is not asked to calculate; see `takes_long`.
_MOST_CHARACTERS, _DEEPEST, _LARGEST = 500, 10, 10_000
_LONG_NUMBER = re.compile(r"\d(?:[,._]?\d){40}|\d[eE][-+]?\d{3}")
_LARGE_FACTORIAL = re.compile(r"(?:\d{4}|[)}\]!])\s*!")
_REPEATS = re.compile(r"\\(?:sum|prod|int|[dt]?binom|choose|bigcup|bigcap)(?![A-Za-z])|[CP]_|!")
_WHOLE = re.compile(r"\d+")
_POWER = re.compile(r"\^")
_LETTER = re.compile(r"(?<![\\A-Za-z])[A-Za-z]")


def claimed_answer(text: str) -> str:
    """The one answer that a completion marks, as it is written; "" for none, and for several.

    Marks are ``<answer>…</answer>``, a line that begins with ``####``, and ``\\boxed{…}``. A mark
    inside another counts once: ``#### \\boxed{18}``. What stands before ``</think>`` is thought and
    claims nothing. A text that has a tag twice, or a tag that is not closed, claims nothing.

    Args:
        text: the whole completion.
    """
    tags = [tag[0] for tag in _ANY_TAG.finditer(text)]
    if len(set(tags)) < len(tags) or not set(tags) <= set(_TAGS):
        return ""
    rest = text.split("</think>")[-1]
    if "<think>" in rest:
        return ""
    return _one_claim(rest)


def _one_claim(text: str) -> str:
    claims = _ANSWER.findall(text)
    rest = _ANSWER.sub(" ", text)
    if "<answer>" in rest or "</answer>" in rest:
        return ""
    lines = [found for found in _HASHES.finditer(rest) if not _HEADING.match(found[1])]
    claims += [found[1] for found in lines]
    ends = [0, *(found.end() for found in lines)]
    begins = [*(found.start() for found in lines), len(rest)]
    rest = "".join(rest[end:begin] for end, begin in zip(ends, begins, strict=True))
    # A box with a mark inside would show one answer and claim another.
    claims += ["" if _MARK.search(content) else content for _, _, content in boxes(rest)]
    if len(claims) != 1:
        return ""
    claim = claims[0].strip()
    return _one_claim(claim) if _MARK.search(claim) else claim


def boxes(text: str) -> list[tuple[int, int, str]]:
    """Each ``\\boxed{…}`` in a text: its start, its end, and its content ("" if it is not closed).

    Args:
        text: any text; a box inside a box is part of the outer one.
    """
    found, end = [], 0
    while box := _BOX.search(text, end):
        end, depth = box.end(), 1
        while depth and end < len(text):
            if text[end] in "{}" and text[end - 1] != "\\":
                depth += 1 if text[end] == "{" else -1
            end += 1
        found.append((box.start(), end, "" if depth else text[box.end() : end - 1]))
    return found


def has_format(text: str, style: str) -> bool:
    """Whether the whole text has a form of `mathsft.generation.rewards.AnswerFormat`.

    Args:
        text: the whole completion.
        style: "think", "boxed" or "hashes".
    """
    if style == "think":
        if [tag[0] for tag in _ANY_TAG.finditer(text)] != _TAGS:
            return False
        parts = _THOUGHT_AND_ANSWER.fullmatch(text)
        return bool(parts and parts[1].strip() and parts[2].strip())
    if style == "boxed":
        found = boxes(text)
        if len(found) != 1:
            return False
        _, end, content = found[0]
        return bool(content.strip() and _AFTER_BOX.fullmatch(text, end))
    lines = text.rstrip().split("\n")
    mark, _, answer = lines[-1].partition("####")
    return text.count("####") == 1 and not mark.strip() and bool(answer.strip(" #"))


def one_number(given: Any) -> str:
    """A reference or a claim as one number in normal form; "" if it is not one number.

    Args:
        given: a number, or a text as `mathsft.data.answers.reference_answer` reads it.
    """
    try:
        return reference_answer(given)
    except ValueError:
        return ""


def takes_long(latex: str) -> bool:
    """Whether math-verify may need very long for an expression: it is then not calculated.

    A time limit does not help: Python calculates ``9**9**9`` in one step, which no signal stops.

    Args:
        latex: an expression. It takes long if it has more than 500 characters, brackets more than
            10 deep, a number of more than 40 digits, a product of all whole numbers in its
            exponents above 10,000, a power of numbers in an exponent, a factorial of more than
            three digits or of a bracket, or a sum, product or binomial of numbers above 10,000.
    """
    latex = latex.replace("**", "^")
    if len(latex) > _MOST_CHARACTERS or _LONG_NUMBER.search(latex):
        return True
    depth, deepest = 0, 0
    for sign in latex:
        depth += (sign in "({[") - (sign in ")}]")
        deepest = max(deepest, depth)
    if deepest > _DEEPEST or _LARGE_FACTORIAL.search(latex):
        return True
    if _REPEATS.search(latex) and any(int(n) > _LARGEST for n in _WHOLE.findall(latex)):
        return True
    product = 1
    for power in _POWER.finditer(latex):
        exponent = _exponent(latex, power.end())
        if _POWER.search(exponent) and not _LETTER.search(exponent):
            return True
        if not _POWER.search(exponent):
            product *= math.prod(max(1, int(n)) for n in _WHOLE.findall(exponent))
    return product > _LARGEST


def _exponent(latex: str, begin: int) -> str:
    """What stands in an exponent that begins here: a bracket with its content, or up to a sign."""
    while latex[begin : begin + 1] in (" ", "-", "+") and begin < len(latex):
        begin += 1
    depth = 0
    for end in range(begin, len(latex)):
        depth += (latex[end] in "({[") - (latex[end] in ")}]")
        if depth < 0 or (depth == 0 and not (latex[end].isalnum() or latex[end] in ")}]^\\.,")):
            return latex[begin:end]
    return latex[begin:]


def same_expression(reference: str, claim: str) -> bool:
    """Whether a claim equals a reference that is not one number, such as ``x^2+1``.

    math-verify compares both as LaTeX. A claim that it cannot read is wrong, and so is one that it
    could calculate for hours, such as ``9^{9^{9^9}}`` (`takes_long`).

    Args:
        reference: the right answer in LaTeX, alone or in a box.
        claim: the answer to judge, in LaTeX.

    Raises ValueError for a reference that is empty, has words, takes long, or cannot be read.
    """
    from math_verify import parse, verify

    # math-verify stops slow expressions with a signal, which only the main thread can receive.
    seconds = 5 if threading.current_thread() is threading.main_thread() else None
    inside = [content for _, _, content in boxes(reference)]
    inner = inside[0] if len(inside) == 1 else reference.strip().strip("$")
    words = _WORD.search(_ENVIRONMENT.sub("", inner))
    readable = inner.strip() and not (words or _GAP.search(inner) or takes_long(inner))
    gold = parse(f"\\boxed{{{inner}}}", parsing_timeout=seconds) if readable else []
    if all(isinstance(part, str) for part in gold):
        raise ValueError(
            f"the reference cannot be read as a number or as LaTeX: {reference!r:.80}; give one "
            "number, worked text with a line '#### 18', or LaTeX without words"
        )
    if not claim or takes_long(claim) or _GAP.search(claim):
        return False
    found = parse(f"\\boxed{{{claim.strip('$')}}}", parsing_timeout=seconds)
    return bool(found) and verify(gold, found, timeout_seconds=seconds)
