"""Search for a prompt of real tokens with which a frozen model answers as it should.

Nothing is trained. If a search finds a prompt with which the base model solves the task, the base
could do it all along, and training would mostly teach it the form.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from mathsft.checks import ABOVE_0, AT_LEAST_0, at_least, check_number
from mathsft.files import write_whole
from mathsft.generation.prompt_methods import Gumbel, Search, Swaps
from mathsft.generation.prompt_places import (
    around,
    places_of,
    prompt_text,
    share_that_survives,
)
from mathsft.generation.prompt_tokens import forbidden_tokens, start_tokens
from mathsft.models.encoding import encode_prompts
from mathsft.models.isolation import check_isolation
from mathsft.models.modes import evaluating
from mathsft.models.sharding import check_not_sharded
from mathsft.processes import say


@dataclass(frozen=True)
class FoundPrompt:
    """A prompt that a search found.

    ``input_ids`` are its tokens, and ``text`` is what they read as. ``loss`` is the mean surprise
    of the target's tokens in nats, on the rows that the finalists were compared on; with a fluency
    term that is included. ``survives`` is the share of rows in which the whole prompt, encoded from
    its text, has exactly these tokens: below 1, give token ids (`as_ids`), not text (`as_text`).
    ``tried`` counts the different prompts whose loss was computed, and ``losses`` has the loss
    of each step's batch.
    """

    input_ids: list[int]
    text: str
    loss: float
    survives: float
    template: str
    tried: int
    losses: list[float] = field(repr=False)

    def as_text(self, question: str) -> str:
        """The whole prompt for ``question``, as text."""
        return self.text.join(around(self.template, question))

    def as_ids(self, tokenizer: Any) -> Callable[[str], list[int]]:
        """A function that makes the whole prompt for a question, as token ids.

        Args:
            tokenizer: the model's tokenizer.
        """

        def ids(question: str) -> list[int]:
            before, after = around(self.template, question)
            first, whole = encode_prompts(tokenizer, [before, before + after])
            rest = whole[len(first) :] if whole[: len(first)] == first else None
            if rest is None:  # the texts before and after the prompt merge
                rest = tokenizer(after, add_special_tokens=False).input_ids
            return [*first, *self.input_ids, *rest]

        return ids


def search_prompt(
    model: Any,
    tokenizer: Any,
    rows: Sequence[Mapping[str, Any]],
    *,
    method: Gumbel | Swaps | None = None,
    num_tokens: int = 1,
    template: str = "{question}{prompt}",
    target: str = "{solution}",
    init: str | Sequence[int] | None = None,
    allowed: Sequence[int] | None = None,
    forbidden: Sequence[int] = (),
    fluency: float = 0.0,
    check_rows: int = 64,
    max_length: int = 1024,
    seed: int = 0,
) -> FoundPrompt:
    """Find ``num_tokens`` tokens with which ``model`` gives the target the highest probability.

    The loss is -log p(target token | all before it), in nats: the mean over the target's tokens.
    The model is frozen and comes back unchanged. The global random state stays as it was.

    Args:
        model: a causal language model, with or without an adapter.
        tokenizer: the model's tokenizer.
        rows: problems (`load_problems`) to search with. Keep others for the score: a prompt can
            fit the rows that it was found with.
        method: `Gumbel` or `Swaps`, with their settings; default: ``Gumbel()``.
        num_tokens: how many tokens to find.
        template: what the model is asked; the found tokens stand at ``{prompt}``, which may be
            before the question, after it, or inside a format.
        target: what it should answer: a text with ``{solution}`` and ``{answer}``. A frozen model
            does not learn a new format, so take one that it writes itself.
        init: tokens or a text to start from, of ``num_tokens`` tokens. Default: for `Gumbel` all
            tokens alike, for `Swaps` random ones.
        allowed: only these tokens may be found; default: all that can be typed.
        forbidden: these tokens may not be found. Special tokens, and those that are not whole
            characters, never are.
        fluency: weight of the mean surprise of the found tokens themselves, in nats. Above 0 it
            prefers prompts that the model finds likely, which read better and explain more.
        check_rows: how many rows the finalists are compared on at the end.
        max_length: tokens of a packed row.
        seed: of the rows' order and the noise. The same call finds the same prompt.

    Raises ValueError, naming the row or the argument, for a template without ``{question}`` or
    ``{prompt}``, a row without a target, no token that is allowed, a number that is impossible,
    a loss that is not finite, and a model that does not keep the rows of a forest apart.
    """
    method = Gumbel() if method is None else method
    if not isinstance(method, Gumbel | Swaps):
        raise ValueError(f"method={method!r:.60}: give Gumbel(…) or Swaps(…)")
    _check_numbers(method, num_tokens, fluency, check_rows, max_length, seed)
    places = places_of(rows, tokenizer, template=template, target=target)
    vocabulary = model.get_input_embeddings().weight.shape[0]
    never = forbidden_tokens(tokenizer, vocabulary, allowed=allowed, forbidden=forbidden)
    check_not_sharded(model)
    generator = torch.Generator().manual_seed(seed)
    start = start_tokens(
        tokenizer, init, never, num_tokens=num_tokens,
        generator=generator if isinstance(method, Swaps) else None,
    )  # fmt: skip
    with evaluating(model):
        model.requires_grad_(False)
        check_isolation(model)
        work = Search(model, tokenizer, places, never, fluency, max_length, generator)
        if isinstance(method, Gumbel):
            losses = work.by_gumbel(method, start, num_tokens)
        else:
            assert start is not None
            losses = work.by_swaps(method, start)
        ids, loss = work.best(check_rows)
    text = prompt_text(tokenizer, places[0], ids)
    questions = [row["question"] for row in rows]
    share = share_that_survives(tokenizer, places, questions, template=template, ids=ids, text=text)
    if share < 1:
        say(
            f"the found prompt {text!r} is not the same tokens when it is read as text, in "
            f"{1 - share:.0%} of the rows: give its token ids (as_ids), not its text"
        )
    return FoundPrompt(ids, text, loss, share, template, len(work.tried), losses)


def write_prompt(found: FoundPrompt, path: str | Path, **more: Any) -> Path:
    """Write a found prompt to a JSON file, whole or not at all.

    Args:
        found: what `search_prompt` returned.
        path: the file.
        more: further values to write beside it, such as its score.
    """
    text = json.dumps({**asdict(found), **more}, indent=1, ensure_ascii=False)
    return write_whole(path, text + "\n")


def _check_numbers(
    method: Gumbel | Swaps,
    num_tokens: int,
    fluency: float,
    check_rows: int,
    max_length: int,
    seed: int,
) -> None:
    zero = ("noise", "forbidden_weight")
    above = ("learning_rate", "first_temperature", "last_temperature")
    for name, value in asdict(method).items():
        rule = AT_LEAST_0 if name in zero else ABOVE_0 if name in above else at_least(1)
        check_number(f"method.{name}", value, rule)
    check_number("num_tokens", num_tokens, at_least(1))
    check_number("check_rows", check_rows, at_least(1))
    check_number("max_length", max_length, at_least(2))
    check_number("seed", seed, at_least(0))
    check_number("fluency", fluency, AT_LEAST_0)
