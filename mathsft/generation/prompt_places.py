"""Where searched tokens stand between a question and its answer, as tokens.

A template says it in text: ``"{question}{prompt}"`` puts the searched tokens after the question.
The pieces around them are encoded once. So a search, its score and its answers all see the same
tokens.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mathsft.data.given import check_rows, given_row
from mathsft.data.schemas import UnusableRowError
from mathsft.models.encoding import encode_pieces, encode_prompts
from mathsft.models.forest import IGNORE, TokenSequence

QUESTION, PROMPT = "{question}", "{prompt}"
_TARGET = re.compile(r"\{(solution|answer)\}")


@dataclass(frozen=True)
class PromptPlace:
    """The tokens before and after the searched ones, and those of the target, for one row."""

    before: list[int]
    after: list[int]
    target: list[int]

    def prompt(self, ids: Sequence[int]) -> list[int]:
        """What the model is asked with the searched tokens ``ids``."""
        return [*self.before, *ids, *self.after]

    def sequence(self, ids: Sequence[int], *, labels: Sequence[int] | None = None) -> TokenSequence:
        """The row with the searched tokens ``ids``; the target is scored.

        ``labels``: one for each searched token; default: they are not scored. (A label for each
        inserted token is needed, or all later labels would be about other tokens.)
        """
        own = [IGNORE] * len(ids) if labels is None else [*labels]
        before, after = [IGNORE] * len(self.before), [IGNORE] * len(self.after)
        return {
            "input_ids": [*self.prompt(ids), *self.target],
            "labels": [*before, *own, *after, *self.target],
        }


def check_template(template: str) -> None:
    """Raise ValueError unless the template has one ``{question}`` and one ``{prompt}``."""
    if not isinstance(template, str):
        raise ValueError(f"template={template!r:.60}: give a text with {QUESTION} and {PROMPT}")
    for name in (QUESTION, PROMPT):
        if (found := template.count(name)) != 1:
            raise ValueError(
                f"template={template!r}: {name} is expected once, found {found} times. "
                f"{QUESTION + PROMPT!r} puts the searched tokens after the question"
            )


def around(template: str, question: str) -> list[str]:
    """The texts before and after the searched tokens. A question may contain ``{prompt}``."""
    return [part.replace(QUESTION, question) for part in template.split(PROMPT)]


def places_of(
    rows: Sequence[Mapping[str, Any]], tokenizer: Any, *, template: str, target: str
) -> list[PromptPlace]:
    """Encode each row around its searched tokens.

    Args:
        rows: problems (`load_problems`).
        template: what the model is asked, with ``{question}`` and ``{prompt}`` in it.
        target: what it should answer, with ``{solution}`` and ``{answer}`` in it.

    Raises ValueError, naming the row, for a row of another kind, a null or empty target, and a
    target that cannot be separated from the text before it in tokens.
    """
    check_template(template)
    check_rows(rows, name="search_prompt")
    used = _TARGET.findall(target) if isinstance(target, str) else []
    if not used:
        raise ValueError(f"target={target!r:.60}: give a text with {{solution}} or {{answer}}")
    texts = []
    for number, given in enumerate(rows):
        where = f"search_prompt, row {number}"
        try:
            row = given_row(given, where=where, counted=set(), kinds=["problem"])
        except UnusableRowError as reason:
            raise ValueError(f"{where}: a row {reason} has no target: leave it out") from None
        if empty := [name for name in used if not (row[name] or "").strip()]:
            raise ValueError(f"{where}: {empty[0]} is empty, so there is no target: leave it out")
        wanted = _TARGET.sub(lambda name, row=row: row[name[1]], target)  # type: ignore[misc]
        texts.append([*around(template, row["question"]), wanted])
    if not texts:
        raise ValueError("search_prompt: there are no rows")
    found = encode_pieces(tokenizer, texts, rendered=[False] * len(texts))
    for number, pieces in enumerate(found):
        if pieces is None:
            raise ValueError(
                f"search_prompt, row {number}: its target cannot be separated from the text before "
                "it in tokens: leave it out, or end the template with a line break"
            )
    return [PromptPlace(*pieces) for pieces in found if pieces is not None]


def prompt_text(tokenizer: Any, place: PromptPlace, ids: Sequence[int]) -> str:
    """The text of the searched tokens, read where they stand.

    A SentencePiece tokenizer writes the space before a word only if something stands before it.
    """
    before = tokenizer.decode(place.before, clean_up_tokenization_spaces=False)
    whole = tokenizer.decode([*place.before, *ids], clean_up_tokenization_spaces=False)
    if whole.startswith(before):
        return str(whole[len(before) :])
    return str(tokenizer.decode(ids, clean_up_tokenization_spaces=False))


def share_that_survives(
    tokenizer: Any,
    places: Sequence[PromptPlace],
    questions: Sequence[str],
    *,
    template: str,
    ids: Sequence[int],
    text: str,
) -> float:
    """The share of rows, 0 to 1, whose whole prompt as text is encoded as the searched tokens.

    From ids to text and back: merges may join a searched token with its neighbours, and then the
    model reads other tokens than those that were searched.
    """
    texts = [text.join(around(template, question)) for question in questions]
    again = encode_prompts(tokenizer, texts)
    same = [place.prompt(ids) == found for place, found in zip(places, again, strict=True)]
    return sum(same) / len(same)
