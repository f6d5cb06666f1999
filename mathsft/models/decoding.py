"""Writing many answers at once: each prompt passes once, and the batch stays full.

An answer that ended leaves, and the next prompt takes its place: continuous batching (Yu et al.
2022, "Orca").
"""

from collections import deque
from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor

from mathsft.models.cache import roomy_cache
from mathsft.models.choosing import Choose, Done, no_matter

# Prompt tokens that pass at once, with padding, which bounds the memory of activations. On a CPU
# fewer are faster: they stay in its cache.
_PREFILL, _PREFILL_CPU = 16_384, 2048
# If a smaller share of the rows goes on, the others leave. Each time the cache is copied.
_FULL = 0.8
_Asked = tuple[Sequence[int], int]  # a prompt, and the number of answers to it


def padded(prompts: Sequence[Sequence[int]], *, fill: int, device: Any) -> tuple[Tensor, Tensor]:
    """Prompts as one tensor (P, T), padded on the left, and a mask that is 0 at the padding."""
    longest = max(map(len, prompts))
    ids = torch.tensor([[fill] * (longest - len(p)) + list(p) for p in prompts])
    seen = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
    return ids.to(device), seen.to(device)


class _Rows:
    """The answers that are being written: a row of the cache each."""

    def __init__(self, model: Any, prompts: Sequence[Sequence[int]], *, fill: int) -> None:
        cache = roomy_cache(model)
        assert cache is not None
        self._model, self._cache = model, cache
        ids, self._seen = padded(prompts, fill=fill, device=model.device)
        places = (self._seen.cumsum(-1) - 1).clamp(min=0)
        self.logits = self._read(ids, places)  # (B, V) after the last token
        self.place = places[:, -1:]
        self.answers = self.steps = torch.arange(len(ids), device=ids.device)
        self.going = torch.ones_like(self.answers, dtype=torch.bool)

    def __len__(self) -> int:
        return len(self.answers)

    def number(self, first: int, copies: Sequence[int]) -> None:
        """Repeat each row as often as ``copies`` says; number the rows from ``first`` on."""
        device = self.answers.device
        rows = [row for row, count in enumerate(copies) for _ in range(count)]
        self.keep(torch.tensor(rows, device=device))
        self.answers = torch.arange(first, first + len(rows), device=device)
        self.steps = torch.zeros_like(self.answers)

    def read(self, token: Tensor) -> None:
        """Let each row's token (B,) pass through the model."""
        self._seen = torch.cat([self._seen, self._seen.new_ones((len(self), 1))], dim=-1)
        self.place = self.place + 1
        self.logits = self._read(token[:, None], self.place)

    def keep(self, rows: Tensor) -> None:
        """Keep these rows alone, without the columns in which all of them are padding."""
        self._cache.batch_select_indices(rows)
        self._seen, self.place = self._seen[rows], self.place[rows]
        self.answers, self.steps = self.answers[rows], self.steps[rows]
        self.going, self.logits = self.going[rows], self.logits[rows]
        if empty := int(self._seen.any(dim=0).int().argmax()):
            self._seen = self._seen[:, empty:]
            for layer in self._layers():
                layer.forget(empty)

    def join(self, other: "_Rows") -> None:
        """Add the rows of the other."""
        length = max(self._seen.shape[1], other._seen.shape[1])
        self._seen, theirs = (
            torch.nn.functional.pad(one._seen, (length - one._seen.shape[1], 0))
            for one in (self, other)
        )
        self._seen = torch.cat([self._seen, theirs])
        for name in ("place", "answers", "steps", "going", "logits"):
            setattr(self, name, torch.cat([getattr(self, name), getattr(other, name)]))
        for layer, more in zip(self._layers(), other._layers(), strict=True):
            layer.join(more)

    def _layers(self) -> list[Any]:
        return [*self._cache.layers]

    def _read(self, ids: Tensor, places: Tensor) -> Tensor:
        logits: Tensor = self._model(
            input_ids=ids,
            attention_mask=self._seen,
            position_ids=places,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        return logits


@torch.no_grad()
def write(
    model: Any,
    prompts: Sequence[Sequence[int]],
    *,
    copies: Sequence[int],
    batch_size: int,
    stops: Collection[int],
    max_new_tokens: int,
    fill: int,
    choose: Choose,
    done: Done = no_matter,
) -> tuple[Tensor, list[int]]:
    """Continue prompts token by token.

    Returns the tokens written, (N, max_new_tokens), and the numbers of answers whose logits were
    not finite once: these mean nothing, and the writing ends with them.

    Args:
        model: a causal language model in eval mode, for which `roomy_cache` gives a cache.
        prompts: token ids. Neighbours pass together, so sort them by length.
        copies: the number of answers to each prompt, at most ``batch_size``. Answers are numbered
            in this order. A prompt passes through the model once.
        batch_size: answers that are written at once.
        stops: tokens that end an answer. What is written after one means nothing.
        fill: the padding.
        choose: takes the logits (n, V), which answers they are for (n,), and how many tokens these
            have (n,); returns tokens (n,).
        done: told how many answers have just been finished.
    """
    device = model.device
    prefill = _PREFILL_CPU if device.type == "cpu" else _PREFILL
    ends = torch.tensor(sorted(stops), device=device)
    written = torch.full((sum(copies), max_new_tokens), fill, device=device)
    broken = torch.zeros(len(written), dtype=torch.bool, device=device)
    waiting = deque(zip(prompts, copies, strict=True))
    begun = 0
    rows: _Rows | None = None
    while True:
        room = batch_size - (0 if rows is None else len(rows))
        while taken := _taken(waiting, room=room, tokens=prefill):
            new = _Rows(model, [prompt for prompt, _ in taken], fill=fill)
            new.number(begun, [count for _, count in taken])
            begun += len(new)
            room -= len(new)
            if rows is None:
                rows = new
            else:
                rows.join(new)
        if rows is None:
            return written, []
        # amax of a row with a NaN is NaN; what stands after a stop means nothing.
        bad = ~rows.logits.amax(dim=-1).isfinite() & rows.going
        broken[rows.answers] |= bad
        token = choose(rows.logits.masked_fill(bad[:, None], 0.0), rows.answers, rows.steps)
        written[rows.answers, rows.steps] = token
        rows.going &= ~torch.isin(token, ends)
        rows.steps = rows.steps + 1
        left, longest = torch.stack([rows.going.sum(), rows.steps.max()]).tolist()
        if left <= _FULL * len(rows) or longest == max_new_tokens:
            if failed := broken.nonzero().flatten().tolist():
                return written, failed
            stay = (rows.going & (rows.steps < max_new_tokens)).nonzero().flatten()
            done(len(rows) - len(stay))
            if not len(stay):
                rows = None
                continue
            token = token[stay]
            rows.keep(stay)
        rows.read(token)


def _taken(waiting: deque[_Asked], *, room: int, tokens: int) -> list[_Asked]:
    """Take prompts for whose answers there is room, but at most this many tokens."""
    taken: list[_Asked] = []
    longest = 0
    while waiting and waiting[0][1] <= room:
        longest = max(longest, len(waiting[0][0]))
        if taken and longest * (len(taken) + 1) > tokens:
            break
        taken.append(waiting.popleft())
        room -= taken[-1][1]
    return taken
