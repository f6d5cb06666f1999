"""The two ways to search for a prompt, step by step: with gradients, and by trying swaps."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mathsft.bars import progress
from mathsft.generation.prompt_codebook import (
    PromptCodebook,
    cosine,
    gumbel_noise,
    prompt_logprobs,
)
from mathsft.generation.prompt_places import PromptPlace
from mathsft.generation.prompt_swaps import one_hot_gradient, prompt_losses, swaps
from mathsft.models.encoding import pad_token
from mathsft.told import advice


@dataclass(frozen=True)
class Gumbel:
    """Search with gradients: Gumbel-softmax over the vocabulary (`PromptCodebook`).

    Args:
        steps: steps of Adam.
        batch_size: rows in a step. A prompt is drawn for each of them, so that many are tried.
        learning_rate: of Adam, for the codes.
        first_temperature: of the softmax in the first step. High: many tokens get a gradient.
        last_temperature: of the softmax in the last step. It falls on half a cosine.
        noise: how much Gumbel noise; 1 draws tokens with the probability of their softmax at
            temperature 1, 0 always takes the best one.
        forbidden_weight: weight in the loss of the probability of forbidden tokens.
        finalists: so many prompts, those drawn most often in the second half of the steps, are
            compared on the same rows at the end, together with the best one by the codes.
    """

    steps: int = 40
    batch_size: int = 8
    learning_rate: float = 0.05
    first_temperature: float = 2.0
    last_temperature: float = 0.3
    noise: float = 1.0
    forbidden_weight: float = 0.1
    finalists: int = 8


@dataclass(frozen=True)
class Swaps:
    """Search by trying: swap one token, and keep what helps (`mathsft.generation.prompt_swaps`).

    Args:
        steps: how often the gradient is computed and swaps are tried.
        batch_size: rows in a step.
        candidates: swaps that are tried in a step.
        top_k: swaps are drawn from so many tokens of each place, those that the gradient likes.
    """

    steps: int = 10
    batch_size: int = 8
    candidates: int = 32
    top_k: int = 128


class Search:
    """The state that both methods share: the rows, the order of batches, what was tried."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        places: Sequence[PromptPlace],
        forbidden: Tensor,
        fluency: float,
        max_length: int,
        generator: torch.Generator,
    ) -> None:
        self.model = model
        self.places = places
        self.forbidden = forbidden.to(model.get_input_embeddings().weight.device)
        self.fluency = fluency
        self.how: dict[str, Any] = {
            "pad_token_id": pad_token(tokenizer), "max_length": max_length
        }  # fmt: skip
        self.generator = generator
        self.tried: set[tuple[int, ...]] = set()
        self.finalists: list[tuple[int, ...]] = []
        half = model.get_input_embeddings().weight.dtype == torch.float16
        self.scale = 1024.0 if half else 1.0  # small gradients would be 0 in float16

    def batch(self, size: int) -> list[PromptPlace]:
        """The rows of a step, drawn at random."""
        drawn = torch.randint(len(self.places), (size,), generator=self.generator)
        return [self.places[number] for number in drawn.tolist()]

    def by_gumbel(self, method: Gumbel, start: list[int] | None, num_tokens: int) -> list[float]:
        """Take all steps of `Gumbel`; return the loss of each."""
        model, steps = self.model, method.steps
        codebook = PromptCodebook(
            model.get_input_embeddings(), self.forbidden, num_tokens=num_tokens, init=start
        )
        optimizer = torch.optim.Adam(codebook.parameters(), lr=method.learning_rate)
        losses, often = [], Counter[tuple[int, ...]]()
        shape = (method.batch_size, num_tokens, len(self.forbidden))
        for step in progress(range(steps), desc="prompt search"):
            temperature = cosine(
                step, steps, first=method.first_temperature, last=method.last_temperature
            )
            noise = gumbel_noise(shape, generator=self.generator).to(codebook.codes.device)
            drawn = codebook.draw(temperature=temperature, noise=method.noise * noise)
            places = self.batch(method.batch_size)
            found = prompt_logprobs(model, places, drawn, fluency=self.fluency > 0, **self.how)
            loss = -found.target.sum() / sum(len(place.target) for place in places)
            if found.prompt is not None:
                loss = loss - self.fluency * found.prompt
            self.check_finite(loss.item(), step)
            penalty = method.forbidden_weight * codebook.forbidden_mass().mean()
            optimizer.zero_grad()
            ((loss + penalty) * self.scale).backward()
            slope = codebook.codes.grad
            assert slope is not None
            slope /= self.scale
            optimizer.step()
            losses.append(loss.item())
            prompts = [tuple(ids) for ids in drawn.ids.tolist()]
            self.tried.update(prompts)
            if step >= steps // 2:
                often.update(prompts)
        best = tuple(codebook.best())
        self.tried.add(best)
        most = [prompt for prompt, _ in often.most_common(method.finalists)]
        self.finalists = [*dict.fromkeys([best, *most])]
        return losses

    def by_swaps(self, method: Swaps, start: list[int]) -> list[float]:
        """Take all steps of `Swaps`; return the loss after each."""
        model = self.model
        with torch.no_grad():
            every = torch.arange(len(self.forbidden), device=self.forbidden.device)
            table = model.get_input_embeddings()(every)
        best, losses = start, []
        for step in progress(range(method.steps), desc="prompt search"):
            places = self.batch(method.batch_size)
            gradient = one_hot_gradient(model, places, best, table, scale=self.scale, **self.how)
            others = swaps(
                best, gradient, self.forbidden, top_k=method.top_k,
                candidates=method.candidates, generator=self.generator,
            )  # fmt: skip
            prompts = [best, *others]  # the current one first: it stays if none is better
            found = prompt_losses(model, places, prompts, fluency=self.fluency, **self.how)
            self.tried.update(map(tuple, prompts))
            best = prompts[int(found.argmin())]
            self.check_finite(float(found.min()), step)
            losses.append(float(found.min()))
            self.finalists = [tuple(best), *(one for one in self.finalists if one != tuple(best))]
        return losses

    def best(self, check_rows: int) -> tuple[list[int], float]:
        """The finalist with the lowest loss on the same rows, and that loss."""
        order = torch.randperm(len(self.places), generator=self.generator)[:check_rows].tolist()
        places = [self.places[number] for number in order]
        found = prompt_losses(self.model, places, self.finalists, fluency=self.fluency, **self.how)
        return list(self.finalists[int(found.argmin())]), float(found.min())

    def check_finite(self, loss: float, step: int) -> None:
        if not math.isfinite(loss):
            raise ValueError(
                f"search_prompt, step {step}: the loss is {loss}, so either the model's weights "
                "are not finite, or half precision overflows: load the model with "
                + advice(python="dtype='float32'", line="--model.dtype float32")
            )
