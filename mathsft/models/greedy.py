"""Greedy decoding that depends only on the weights and the prompt."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
)

from mathsft.models.adapter_checks import soft_prompt_length, with_soft_prompt
from mathsft.models.attention import position_limit
from mathsft.models.cache import roomy_cache
from mathsft.models.choosing import Choose, Done, likeliest, no_matter
from mathsft.models.decoding import padded, write
from mathsft.models.encoding import pad_token, stop_tokens
from mathsft.models.modes import evaluating
from mathsft.processes import say
from mathsft.told import advice

# Settings of a generation config that greedy decoding never reads, or that name tokens.
_IDLE = {
    "do_sample", "temperature", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff",
    "eta_cutoff", "top_h", "max_length", "max_new_tokens", "use_cache", "cache_implementation",
    "transformers_version", "_from_model_config", "bos_token_id", "eos_token_id", "pad_token_id",
    "decoder_start_token_id", "output_attentions", "output_hidden_states", "output_scores",
    "output_logits", "return_dict_in_generate", "early_stopping", "length_penalty",
    "chat_format", "max_window_size", "max_time", "num_return_sequences",
}  # fmt: skip


@contextmanager
def own_generation(model: Any, tokenizer: Any) -> Iterator[GenerationConfig]:
    """Inside, ``model`` is in eval mode and generates greedily with our own generation config.

    A checkpoint's config may set a repetition penalty (Qwen2.5-Instruct's does), beams, or
    forbidden tokens. transformers uses them unless a call overrides them, and a "greedy" answer
    is then a different one. `stop_tokens` decides where an answer ends.
    """
    inner = getattr(model, "get_base_model", lambda: model)()
    with evaluating(model):
        config = GenerationConfig(
            do_sample=False,
            eos_token_id=stop_tokens(model, tokenizer),
            pad_token_id=pad_token(tokenizer),
        )
        inner.generation_config = config
        yield config


def say_ignored(model: Any) -> None:
    """Print which settings of the checkpoint's generation config greedy decoding ignores."""
    inner = getattr(model, "get_base_model", lambda: model)()
    if (config := getattr(inner, "generation_config", None)) is None:
        return
    usual = GenerationConfig().to_dict()
    asked = {
        key: value
        for key, value in config.to_dict().items()
        if key not in _IDLE and value not in (None, False) and value != usual.get(key)
    }
    neutral = {"repetition_penalty": 1.0, "num_beams": 1, "no_repeat_ngram_size": 0}
    left = [f"{key}={value}" for key, value in asked.items() if neutral.get(key) != value]
    if left:
        say(f"greedy decoding ignores the checkpoint's {', '.join(left)} (generation_config.json)")


class FiniteLogits(LogitsProcessor):
    """Checks the logits that answers are chosen from; ``broken`` lists the rows that failed.

    Argmax of NaN is a token like any other, so broken weights give a text and no error.
    """

    def __init__(self) -> None:
        self._broken: Tensor | None = None  # on the device: reading it would wait for the GPU

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        here = ~scores.amax(dim=-1).isfinite()  # amax of a row with a NaN is NaN
        self._broken = here if self._broken is None else self._broken | here
        return scores.masked_fill(here[:, None], 0.0)  # nothing can be drawn from NaN

    @property
    def broken(self) -> list[int]:
        """The rows of the batch with a step whose largest logit was NaN or infinite."""
        return [] if self._broken is None else self._broken.nonzero().flatten().tolist()


class Chosen(LogitsProcessor):
    """Lets ``choose`` pick the tokens in transformers' ``generate``, from answer ``first`` on."""

    def __init__(self, choose: Choose, *, prompt_tokens: int, first: int) -> None:
        self._choose = choose
        self._prompt_tokens = prompt_tokens
        self._first = first

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        answers = torch.arange(self._first, self._first + len(scores), device=scores.device)
        token = self._choose(scores, answers, input_ids.shape[1] - self._prompt_tokens)
        # Only the chosen token is left for generate's own argmax.
        return torch.full_like(scores, -torch.inf).scatter(1, token[:, None], 0.0)


def check_room(model: Any, prompt_tokens: int, max_new_tokens: int, *, name: str) -> None:
    """Raise ValueError for an empty prompt, or if it and the answer need more positions than exist.

    ``name`` says whose prompt it is. The last token of an answer does not go through the model.
    """
    if not prompt_tokens:
        raise ValueError(f"{name} has an empty prompt: there is no token to continue")
    limit = position_limit(model.config)
    if limit is not None and prompt_tokens + max_new_tokens - 1 > limit:
        room = limit + 1 - prompt_tokens
        advice = f"give max_new_tokens of at most {room}, or " if room > 0 else ""
        raise ValueError(
            f"{name} has a prompt of {prompt_tokens:,} tokens; with max_new_tokens="
            f"{max_new_tokens} that is more than the model's {limit:,} positions: {advice}leave "
            "the prompt out"
        )


def greedy_tokens(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    names: Sequence[str],
) -> list[list[int]]:
    """Return what ``model`` writes greedily after each prompt: token ids, one list per prompt.

    The prompts are one batch. An answer ends with one of `stop_tokens`, or is cut after
    ``max_new_tokens``. ``names`` says whose prompts they are, for error messages.

    Raises ValueError if a prompt leaves no room (`check_room`), or if the logits are not finite.
    """
    return written_tokens(model, tokenizer, prompts, names=names, max_new_tokens=max_new_tokens)


@torch.no_grad()
def written_tokens(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    names: Sequence[str],
    copies: Sequence[int] | None = None,
    batch_size: int | None = None,
    choose: Choose = likeliest,
    done: Done = no_matter,
) -> list[list[int]]:
    """As `greedy_tokens`, but ``choose`` picks the tokens (such as `choosing.Sampler`).

    ``copies`` says how many answers to write to each prompt, default 1; they are returned one
    after the other, and numbered in this order for ``choose``. ``batch_size`` answers are written
    at once, default all; at least the copies of one prompt. Models with the usual cache are
    driven by `mathsft.models.decoding.write`, others (sliding windows, recurrent layers) by
    transformers' ``generate``. ``done`` is told how many answers have just been finished.
    """
    for prompt, name in zip(prompts, names, strict=True):
        check_room(model, len(prompt), max_new_tokens, name=name)
    stops = set(stop_tokens(model, tokenizer))
    copies = copies or [1] * len(prompts)
    batch_size = max(batch_size or sum(copies), *copies)
    how: dict[str, Any] = {"max_new_tokens": max_new_tokens, "choose": choose, "done": done}
    how |= {"copies": copies, "batch_size": batch_size, "fill": pad_token(tokenizer)}
    inner = getattr(model, "get_base_model", lambda: model)()
    soft = soft_prompt_length(model) > 0  # its vectors are not in the base
    with own_generation(model, tokenizer) as config:
        if roomy_cache(inner) is not None and not soft:
            found, broken = write(inner, prompts, stops=stops, **how)
            written = found.tolist()
        else:
            written, broken = _by_transformers(model, prompts, config=config, **how)
    if broken:
        owners = [name for name, count in zip(names, copies, strict=True) for _ in range(count)]
        raise ValueError(
            f"{owners[broken[0]]}: the model's logits are not finite, so its answers mean "
            "nothing. Either its weights are not finite, or half precision overflows: load the "
            "model with "
            + advice(
                python="dtype='float32', or with attn_implementation='eager'",
                line="--model.dtype float32",
            )
        )
    answers = []
    for row in written:
        end = next((n for n, token in enumerate(row, 1) if token in stops), len(row))
        answers.append(row[:end])
    return answers


def _by_transformers(
    model: Any,
    prompts: Sequence[Sequence[int]],
    *,
    config: GenerationConfig,
    copies: Sequence[int],
    batch_size: int,
    max_new_tokens: int,
    fill: int,
    choose: Choose,
    done: Done,
) -> tuple[list[list[int]], list[int]]:
    """As `mathsft.models.decoding.write`, batch by batch, by transformers' ``generate``."""
    config.update(max_new_tokens=max_new_tokens)
    vectors = soft_prompt_length(model)
    inner = getattr(model, "get_base_model", lambda: model)()
    answers = [prompt for prompt, count in zip(prompts, copies, strict=True) for _ in range(count)]
    written: list[list[int]] = []
    for first in range(0, len(answers), batch_size):
        batch = [[fill] * vectors + [*ids] for ids in answers[first : first + batch_size]]
        ids, seen = padded(batch, fill=fill, device=model.device)
        longest, watch = ids.shape[1], FiniteLogits()
        inputs = with_soft_prompt(model, ids, seen) if vectors else {"input_ids": ids}
        read = 0 if vectors else longest  # transformers returns no tokens for embeddings
        chosen = Chosen(choose, prompt_tokens=read, first=first)
        written += inner.generate(
            **inputs,
            attention_mask=seen,
            generation_config=config,
            logits_processor=LogitsProcessorList([watch, chosen]),
        )[:, read:].tolist()
        done(len(ids))
        if watch.broken:
            return written, [first + row for row in watch.broken]
    return written, []
