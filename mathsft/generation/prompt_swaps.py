"""A plain search for a prompt: swap one token at a time, and keep a swap that helps.

The gradient at the one-hot choice of each token says which other tokens look better. Some of them
are tried, and the best one replaces the current token (greedy coordinate gradient, Zou et al.
2023, arXiv:2307.15043).
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mathsft.generation.prompt_codebook import DrawnPrompt, prompt_logprobs
from mathsft.generation.prompt_places import PromptPlace
from mathsft.models.forest import TokenForest
from mathsft.models.logprobs import sequence_logprobs

_AT_ONCE = 16  # packed rows that pass through the model together


@torch.no_grad()
def prompt_losses(
    model: Any,
    places: Sequence[PromptPlace],
    prompts: Sequence[Sequence[int]],
    *,
    pad_token_id: int,
    max_length: int = 1024,
    fluency: float = 0.0,
) -> Tensor:
    """Return the loss of each prompt over the same rows: (N,) nats per target token, on the CPU.

    Args:
        model: a causal language model.
        places: the rows.
        prompts: N prompts, each as token ids. They branch off a row's question in one tree, so
            the question passes through the model once for many of them.
        pad_token_id: any token; padding is not read.
        max_length: tokens of a packed row.
        fluency: if above 0, so many times the mean surprise of the prompt's own tokens is added.
    """
    trunk = max(len(place.before) for place in places)
    branch = max(len(p) + len(place.after) + len(place.target) for place in places for p in prompts)
    at_once = max(1, (max_length - trunk) // branch)
    groups, owners = [], []
    for place in places:
        for first in range(0, len(prompts), at_once):
            some = prompts[first : first + at_once]
            groups.append([place.sequence(p, labels=p if fluency else None) for p in some])
            owners.append([(n, len(place.target)) for n in range(first, first + len(some))])
    device = model.get_input_embeddings().weight.device
    target, own = torch.zeros(len(prompts)), torch.zeros(len(prompts))
    own_tokens = torch.zeros(len(prompts))
    for first in range(0, len(groups), _AT_ONCE):
        forest = TokenForest.from_groups(
            groups[first : first + _AT_ONCE], max_length=max_length, stretch=True
        )
        batch = {k: v.to(device) for k, v in forest.tensors(pad_token_id=pad_token_id).items()}
        values = sequence_logprobs(model, batch).by_sequence()
        scored = [one for group in owners[first : first + _AT_ONCE] for one in group]
        for (number, length), logprobs in zip(scored, values, strict=True):
            target[number] -= float(logprobs[-length:].sum())
            own[number] -= float(logprobs[:-length].sum())
            own_tokens[number] += len(logprobs) - length
    losses = target / sum(len(place.target) for place in places)
    return losses + fluency * own / own_tokens.clamp(min=1) if fluency else losses


def one_hot_gradient(
    model: Any,
    places: Sequence[PromptPlace],
    ids: Sequence[int],
    table: Tensor,
    *,
    pad_token_id: int,
    max_length: int,
    scale: float = 1.0,
) -> Tensor:
    """Return how the loss changes with the choice of each token: (n, V), at the prompt ``ids``.

    To first order, a swap of token n from u to v changes the loss by ``[n, v] - [n, u]``. The loss
    is the mean over the target's tokens; ``table`` (V, H) holds the embeddings. ``scale`` enlarges
    the loss in the backward pass: float16 has no small numbers.
    """
    chosen = torch.tensor([[*ids]], device=table.device)
    embeddings = table[chosen].detach().requires_grad_()
    drawn = DrawnPrompt(chosen, embeddings, soft=embeddings)  # nothing is drawn from a softmax
    how: dict[str, Any] = {"pad_token_id": pad_token_id, "max_length": max_length}
    total = prompt_logprobs(model, places, drawn, **how).target.sum()
    loss = -total / sum(len(place.target) for place in places)
    (gradient,) = torch.autograd.grad(loss * scale, embeddings)
    return gradient[0].float() / scale @ table.float().T


def swaps(
    ids: Sequence[int],
    gradient: Tensor,
    forbidden: Tensor,
    *,
    top_k: int,
    candidates: int,
    generator: torch.Generator,
) -> list[list[int]]:
    """Return prompts that differ from ``ids`` in one token, at most ``candidates``, all different.

    They are drawn from the ``top_k`` tokens of each place with the lowest gradient. ``forbidden``
    (V,) tokens are never among them.
    """
    usable = gradient.masked_fill(forbidden, torch.inf)
    usable[torch.arange(len(ids)), torch.tensor(ids, device=usable.device)] = torch.inf
    top = usable.topk(min(top_k, usable.shape[-1]), largest=False)
    allowed = [
        (place, token)
        for place, (tokens, values) in enumerate(
            zip(top.indices.tolist(), top.values.tolist(), strict=True)
        )
        for token, value in zip(tokens, values, strict=True)
        if value != float("inf")
    ]
    order = torch.randperm(len(allowed), generator=generator)[:candidates].tolist()
    found = []
    for place, token in (allowed[n] for n in order):
        found.append([*ids[:place], token, *ids[place + 1 :]])
    return found
