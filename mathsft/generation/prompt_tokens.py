"""Which tokens a searched prompt may have, and which it starts from."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def forbidden_tokens(
    tokenizer: Any,
    vocabulary: int,
    *,
    allowed: Sequence[int] | None = None,
    forbidden: Sequence[int] = (),
) -> Tensor:
    """Return (V,) bool: the tokens that a prompt may not have.

    Args:
        tokenizer: the model's tokenizer.
        vocabulary: V, the rows of the model's embedding. Models often have more than the tokenizer
            has tokens.
        allowed: only these may be found; default: all but those below.
        forbidden: further tokens that may not be found.

    Never allowed are special and added tokens, which a text may not contain, tokens without text,
    and those that are a part of a character: nobody can type them.

    Raises ValueError for a token that does not exist, and if no token is left.
    """
    for name, given in {"allowed": allowed or (), "forbidden": forbidden}.items():
        for token in given:
            whole = isinstance(token, int) and not isinstance(token, bool)
            if not whole or not 0 <= token < vocabulary:
                raise ValueError(
                    f"{name}: {token!r:.40} is no token: give ids of 0 to {vocabulary - 1}"
                )
    size = min(len(tokenizer), vocabulary)
    texts = tokenizer.batch_decode([[token] for token in range(size)])
    never = torch.ones(vocabulary, dtype=torch.bool)
    never[:size] = torch.tensor([not text or "\N{REPLACEMENT CHARACTER}" in text for text in texts])
    special = {*tokenizer.all_special_ids, *tokenizer.get_added_vocab().values()}
    never[[token for token in special if token < vocabulary]] = True
    if allowed is not None:
        others = torch.ones_like(never)
        others[list(allowed)] = False
        never |= others
    never[list(forbidden)] = True
    if never.all():
        raise ValueError("no token is allowed: special tokens and parts of characters never are")
    return never


def start_tokens(
    tokenizer: Any,
    init: str | Sequence[int] | None,
    forbidden: Tensor,
    *,
    num_tokens: int,
    generator: torch.Generator | None,
) -> list[int] | None:
    """Return the tokens that a search starts from: those of ``init``, or else random ones.

    Without ``init`` and without a ``generator`` there are none. Raises ValueError if ``init`` has
    another number of tokens than ``num_tokens``, or one that is forbidden.
    """
    if init is None:
        if generator is None:
            return None
        usable = (~forbidden).nonzero().squeeze(-1)
        picked = torch.randint(len(usable), (num_tokens,), generator=generator)
        return [int(token) for token in usable[picked]]
    ids = (
        list(tokenizer(init, add_special_tokens=False).input_ids)
        if isinstance(init, str)
        else list(init)
    )
    if len(ids) != num_tokens:
        raise ValueError(
            f"init={init!r:.60} has {len(ids)} tokens, and num_tokens is {num_tokens}: give as many"
        )
    for token in ids:
        if not isinstance(token, int) or not 0 <= token < len(forbidden) or forbidden[token]:
            raise ValueError(
                f"init: token {token!r:.40} ({tokenizer.decode([token])!r}) is forbidden"
            )
    return ids
