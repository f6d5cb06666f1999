"""Sample several answers to each prompt; their token ids are kept, never encoded again."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from tqdm.auto import tqdm

from mathsft.checks import ABOVE_0, SHARE, at_least, check_number, check_numbers
from mathsft.models.decoding import Sampler
from mathsft.models.encoding import prompt_ids, stop_tokens
from mathsft.models.greedy import check_room, written_tokens
from mathsft.models.merging import merged_for_reading
from mathsft.models.sharding import check_not_sharded
from mathsft.processes import processes


@dataclass(frozen=True)
class Completion:
    """An answer that a model wrote.

    ``input_ids`` are its tokens, the stop token included; ``text`` is without special tokens;
    ``ended`` says whether it stopped by itself, or was cut after ``max_new_tokens``;
    ``logprobs`` are the log-probabilities of its tokens in nats, of the model that wrote it at
    the temperature of the sampling. (``top_p`` does not change them.)
    """

    input_ids: list[int]
    text: str
    ended: bool
    logprobs: list[float]


def sample_groups(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str] | Sequence[Sequence[int]],
    *,
    num_generations: int = 8,
    temperature: float = 1.0,
    top_p: float = 1.0,
    max_new_tokens: int = 256,
    batch_size: int = 512,
    seed: int = 0,
    numbers: Sequence[int] | None = None,
) -> list[list[Completion]]:
    """Return ``num_generations`` sampled answers to each prompt, in the prompts' order.

    Args:
        prompts: texts, as the model was trained to continue them; or their token ids.
        num_generations: answers per prompt.
        temperature: the logits are divided by it. 1 samples from the model itself, which is what
            objectives that learn from samples assume.
        top_p: sample only from the likeliest tokens that together have this probability; 1: all.
        max_new_tokens: an answer that has not stopped after this many tokens is cut.
        batch_size: answers that are written at once. 512 short ones need about 1 GB at 0.5B.
        seed: an answer depends on the weights, its prompt, the seed, the prompt's number and the
            answer's place in the group. So the same call gives the same answers, in one process
            or several. (Other batches round differently, and a token on the edge between two may
            change.) The global random state stays as it was.
        numbers: for each prompt the number that its random numbers come from; default: its place
            in the list. Give a row's own number if prompts are sampled in parts.

    A checkpoint's own generation config is not used. In several processes (torchrun), call it in
    each: each writes its share of the batches, and all return the whole list.

    Raises ValueError for one text instead of a list, an impossible number, a prompt that is empty
    or leaves the model no room, logits that are not finite, or a model that is sharded over
    several processes.
    """
    if isinstance(prompts, str):
        raise ValueError(f"prompts: expected a list of texts, found one text: [{prompts!r:.40}]")
    check_number("num_generations", num_generations, at_least(1))
    check_number("temperature", temperature, ABOVE_0)
    check_number("top_p", top_p, SHARE)
    check_number("batch_size", batch_size, at_least(1))
    check_number("seed", seed, at_least(0))
    check_numbers({"max_new_tokens": max_new_tokens})
    if not len(prompts):
        return []
    check_not_sharded(model)
    state = processes(model.device.type)
    encoded = prompt_ids(tokenizer, prompts)
    for row, ids in enumerate(encoded):
        check_room(model, len(ids), max_new_tokens, name=f"prompt {row}")
    by_length = sorted(range(len(encoded)), key=lambda row: len(encoded[row]))
    order = [row for row in by_length for _ in range(num_generations)]
    batch_size = min(batch_size, -(-len(order) // state.num_processes))
    starts = range(0, len(order), batch_size)[state.process_index :: state.num_processes]
    stops = set(stop_tokens(model, tokenizer))
    named = range(len(encoded)) if numbers is None else numbers
    found: list[tuple[int, Completion]] = []
    quiet = not state.is_main_process or len(starts) == 1
    with merged_for_reading(model):
        for start in tqdm(starts, desc="answers", leave=False, disable=quiet):
            rows = order[start : start + batch_size]
            draws = [
                _uniform(max_new_tokens, seed, named[row], (start + place) % num_generations)
                for place, row in enumerate(rows)
            ]
            sampler = Sampler(
                torch.tensor(np.stack(draws), device=model.device),
                temperature=temperature,
                top_p=top_p,
            )
            copies = Counter(rows)
            written = written_tokens(
                model,
                tokenizer,
                [encoded[row] for row in copies],
                max_new_tokens=max_new_tokens,
                names=[f"prompt {row}" for row in copies],
                copies=list(copies.values()),
                choose=sampler,
            )
            texts = tokenizer.batch_decode(written, skip_special_tokens=True)
            logprobs = sampler.logprobs.tolist()
            for row, ids, text, values in zip(rows, written, texts, logprobs, strict=True):
                ended = bool(ids) and ids[-1] in stops
                made = Completion(ids, text=text, ended=ended, logprobs=values[: len(ids)])
                found.append((row, made))
    groups: list[list[Completion]] = [[] for _ in prompts]
    for row, completion in sorted(gather_object(found), key=itemgetter(0)):
        groups[row].append(completion)
    return groups


def _uniform(count: int, *key: int) -> np.ndarray[Any, Any]:
    """``count`` random numbers in [0, 1) that only the key decides."""
    stream = np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))
    return stream.random(count, dtype=np.float32)
