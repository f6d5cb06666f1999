"""Sample several answers to each prompt; their token ids are kept, never encoded again."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import torch
from accelerate.utils import gather_object
from tqdm.auto import tqdm

from mathsft.checks import ABOVE_0, SHARE, at_least, check_number, check_numbers
from mathsft.models.encoding import encode_prompts, stop_tokens
from mathsft.models.greedy import check_room, written_tokens
from mathsft.models.sharding import check_not_sharded
from mathsft.processes import processes


@dataclass(frozen=True)
class Completion:
    """An answer that a model wrote.

    ``input_ids`` are its tokens, the stop token included; ``text`` is without special tokens;
    ``ended`` says whether it stopped by itself, or was cut after ``max_new_tokens``.
    """

    input_ids: list[int]
    text: str
    ended: bool


def sample_groups(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    *,
    num_generations: int = 8,
    temperature: float = 1.0,
    top_p: float = 1.0,
    max_new_tokens: int = 256,
    batch_size: int = 512,
    seed: int = 0,
) -> list[list[Completion]]:
    """Return ``num_generations`` sampled answers to each prompt, in the prompts' order.

    Args:
        prompts: texts, as the model was trained to continue them.
        num_generations: answers per prompt.
        temperature: the logits are divided by it. 1 samples from the model itself, which is what
            objectives that learn from samples assume.
        top_p: sample only from the likeliest tokens that together have this probability; 1: all.
        max_new_tokens: an answer that has not stopped after this many tokens is cut.
        batch_size: answers that are written at once. 512 short ones need about 1 GB at 0.5B.
        seed: the same seed, prompts and batch size give the same answers on the same machine. The
            global random state stays as it was.

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
    check_not_sharded(model)
    state = processes(model.device.type)
    encoded = encode_prompts(tokenizer, list(prompts))
    for row, ids in enumerate(encoded):
        check_room(model, len(ids), max_new_tokens, name=f"prompt {row}")
    by_length = sorted(range(len(encoded)), key=lambda row: len(encoded[row]))
    order = [row for row in by_length for _ in range(num_generations)]
    starts = range(0, len(order), batch_size)[state.process_index :: state.num_processes]
    stops = set(stop_tokens(model, tokenizer))
    found: list[tuple[int, Completion]] = []
    for start in tqdm(starts, desc="answers", leave=False, disable=not state.is_main_process):
        rows = order[start : start + batch_size]
        devices = [model.device] if model.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(seed * 1_000_003 + start)
            copies = Counter(rows)
            written = written_tokens(
                model,
                tokenizer,
                [encoded[row] for row in copies],
                max_new_tokens=max_new_tokens,
                names=[f"prompt {row}" for row in copies],
                copies=list(copies.values()),
                temperature=temperature,
                top_p=top_p,
            )
        texts = tokenizer.batch_decode(written, skip_special_tokens=True)
        for row, ids, text in zip(rows, written, texts, strict=True):
            ended = bool(ids) and ids[-1] in stops
            found.append((row, Completion(input_ids=ids, text=text, ended=ended)))
    groups: list[list[Completion]] = [[] for _ in prompts]
    for row, completion in sorted(gather_object(found), key=itemgetter(0)):
        groups[row].append(completion)
    return groups
