"""Sample several answers to each prompt; their token ids are kept, never encoded again."""

from collections.abc import Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object

from mathsft.bars import progress
from mathsft.checks import ABOVE_0, AT_LEAST_0, SHARE, at_least, check_number, check_numbers
from mathsft.models.choosing import Greedy, Sampler
from mathsft.models.encoding import prompt_ids, stop_tokens
from mathsft.models.greedy import check_room, say_ignored, written_tokens
from mathsft.models.merging import merged_for_reading
from mathsft.models.sharding import check_not_sharded
from mathsft.processes import processes


@dataclass(frozen=True)
class Completion:
    """An answer that a model wrote.

    ``input_ids`` are its tokens, the stop token included; ``text`` is without special tokens;
    ``ended`` says whether it stopped by itself, or was cut after ``max_new_tokens``;
    ``logprobs`` are the log-probabilities of its tokens in nats, of the model that wrote it at
    the temperature of the sampling, or of the model itself (temperature 1) if the answer is
    greedy. (``top_p`` does not change them.) Only a greedy answer from a server may lack
    ``input_ids`` or ``logprobs``: then they are empty.
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
        batch_size: answers that are written at once. One that ends makes room for the next. 512
            short ones need about 1 GB at 0.5B.
        seed: an answer depends on the weights, its prompt, the seed, the prompt's number and the
            answer's place in the group. So the same call gives the same answers, in one process
            or several. (Other batches round differently, and a token on the edge between two may
            change.) The global random state stays as it was.
        numbers: for each prompt the number that its random numbers come from; default: its place
            in the list. Give a row's own number if prompts are sampled in parts.

    A checkpoint's own generation config is not used. In several processes (torchrun), call it in
    each: each writes its share of the answers, and all return the whole list.

    Raises ValueError for one text instead of a list, an impossible number, a prompt that is empty
    or leaves the model no room, logits that are not finite, or a model that is sharded over
    several processes.
    """
    check_number("temperature", temperature, ABOVE_0)
    return written_groups(
        model,
        tokenizer,
        prompts,
        num_generations=num_generations,
        temperature=temperature,
        top_p=top_p,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        seed=seed,
        numbers=numbers,
    )


_AT_ONCE = 16  # batches whose tokens are on the device at the same time


def written_groups(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str] | Sequence[Sequence[int]],
    *,
    num_generations: int,
    temperature: float,
    top_p: float,
    max_new_tokens: int,
    batch_size: int,
    seed: int,
    numbers: Sequence[int] | None,
    name: str = "prompt",
) -> list[list[Completion]]:
    """As `sample_groups`, and greedy at temperature 0; ``name``: what errors call a prompt."""
    check_prompts(prompts)
    check_number("num_generations", num_generations, at_least(1))
    check_number("temperature", temperature, AT_LEAST_0)
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
        check_room(model, len(ids), max_new_tokens, name=f"{name} {row}")
    if temperature == 0:
        say_ignored(model)
    by_length = sorted(range(len(encoded)), key=lambda row: len(encoded[row]))
    # A group is divided where it is larger than a batch, or there are few for each process.
    parts = max(-(-num_generations // batch_size), _parts(len(encoded), state.num_processes))
    size = -(-num_generations // parts)
    firsts = range(0, num_generations, size)
    share = [(row, first) for row in by_length for first in firsts]
    share = share[state.process_index :: state.num_processes]
    at_once = max(_AT_ONCE * batch_size // size, 1)
    stops = set(stop_tokens(model, tokenizer))
    named = range(len(encoded)) if numbers is None else numbers
    found: list[tuple[int, int, Completion]] = []
    total = sum(min(size, num_generations - first) for _, first in share)
    quiet = not state.is_main_process or total <= batch_size
    bar = progress(total=total, desc="answers", disable=quiet)
    with bar, merged_for_reading(model):
        for start in range(0, len(share), at_once):
            pieces = share[start : start + at_once]
            places = [
                (row, copy)
                for row, first in pieces
                for copy in range(first, min(first + size, num_generations))
            ]
            choose: Greedy | Sampler
            if temperature == 0:
                choose = Greedy((len(places), max_new_tokens), device=model.device)
            else:
                draws = [uniform(max_new_tokens, seed, named[row], copy) for row, copy in places]
                drawn = torch.tensor(np.stack(draws), device=model.device)
                choose = Sampler(drawn, temperature=temperature, top_p=top_p)
            written = written_tokens(
                model,
                tokenizer,
                [encoded[row] for row, _ in pieces],
                max_new_tokens=max_new_tokens,
                names=[f"{name} {row}" for row, _ in pieces],
                copies=[min(size, num_generations - first) for _, first in pieces],
                batch_size=batch_size,
                choose=choose,
                done=bar.update,
            )
            texts = tokenizer.batch_decode(written, skip_special_tokens=True)
            logprobs = choose.logprobs.tolist()
            for place, ids, text, values in zip(places, written, texts, logprobs, strict=True):
                ended = bool(ids) and ids[-1] in stops
                made = Completion(ids, text=text, ended=ended, logprobs=values[: len(ids)])
                found.append((*place, made))
    groups: list[list[Completion]] = [[] for _ in encoded]
    for row, _, completion in sorted(gather_object(found), key=itemgetter(0, 1)):
        groups[row].append(completion)
    return groups


def check_prompts(prompts: Any) -> None:
    """Raise ValueError unless the prompts are a list of texts, or of token ids.

    Each character of a single text would be a prompt, and each column's name of a table.
    """
    if isinstance(prompts, str):
        raise ValueError(f"prompts: expected a list of texts, found one text: [{prompts!r:.40}]")
    table = isinstance(prompts, Mapping) or hasattr(prompts, "iloc")
    if table or not isinstance(prompts, Iterable) or not isinstance(prompts, Sized):
        raise ValueError(f"prompts: expected a list of texts, found {type(prompts).__name__}")
    for place, prompt in enumerate(prompts):
        if isinstance(prompt, Mapping):
            raise ValueError(
                f"prompts: prompt {place} is a row with {', '.join(map(str, prompt)) or 'no key'}; "
                "expected a text. sft_prompt(row['question']) makes the prompt of a problem"
            )
        if not isinstance(prompt, Iterable):
            raise ValueError(f"prompts: prompt {place} is {prompt!r:.40}; expected a text")


def _parts(prompts: int, processes: int) -> int:
    """In how many parts to divide each group, so that the processes get about the same work."""
    return 1 if processes == 1 else -(-4 * processes // prompts)


def uniform(count: int, *key: int) -> np.ndarray[Any, Any]:
    """``count`` random numbers in [0, 1) that only the key decides."""
    stream = np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))
    return stream.random(count, dtype=np.float32)
