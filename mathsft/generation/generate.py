"""Answers to prompts, greedy or sampled, by the model itself or by a server."""

from collections.abc import Sequence
from typing import Any

from mathsft.checks import at_least, check_number
from mathsft.generation.rollouts import Completion, written_groups
from mathsft.generation.server import Server


def generate(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str] | Sequence[Sequence[int]],
    *,
    num_generations: int = 1,
    temperature: float = 0.0,
    top_p: float = 1.0,
    max_new_tokens: int = 256,
    batch_size: int = 256,
    seed: int = 0,
    numbers: Sequence[int] | None = None,
    server: Server | None = None,
    name: str = "prompt",
) -> list[list[Completion]]:
    """Return ``num_generations`` answers to each prompt, in the prompts' order.

    An answer ends at the stop tokens of training (`mathsft.models.encoding.stop_tokens`). A
    checkpoint's own generation config, which may hold a repetition penalty, is not used; for
    greedy answers a line says what is ignored. Prompts are batched by length, and padded on the
    left. An answer that ended leaves the batch, and the next prompt takes its place. A LoRA adapter
    in float32 is added to the weights while the model reads, which is as exact as float32
    (`mathsft.models.merging.merged_for_reading`); the model comes back bit for bit. In several
    processes (torchrun), call it in each: each writes its share, and all return the whole list.

    Args:
        model: a causal language model. With a server it may be None.
        tokenizer: the model's tokenizer.
        prompts: texts, as the model was trained to continue them; or their token ids.
        num_generations: answers per prompt. Greedy ones are all the same, and written once.
        temperature: 0 takes the likeliest token each time (greedy). Otherwise the logits are
            divided by it; 1 samples from the model itself.
        top_p: sample only from the likeliest tokens that together have this probability; 1: all.
        max_new_tokens: an answer that has not stopped after this many tokens is cut.
        batch_size: answers that are written at once. Each token of an answer and its prompt needs
            room for its keys and values: 256 answers of 300 tokens need 1 GB at 0.5B in half
            precision. Give less if memory is short; more is faster on a large GPU.
        seed: decides a sampled answer, as in `sample_groups`.
        numbers: for each prompt the number that its random numbers come from, as in
            `sample_groups`; default: its place in the list.
        server: asks this server instead of the model. Its answers have log-probabilities only if
            it returns them, and token ids too; greedy answers alone may lack them.
        name: what error messages call a prompt.

    Raises:
        ValueError: one text instead of a list, an impossible number, a prompt that is empty or
            leaves the model no room, logits that are not finite, a model that is sharded over
            several processes.
        ServerError: as `served_groups` says.
    """
    check_number("num_generations", num_generations, at_least(1))
    sampling: dict[str, Any] = {
        "num_generations": num_generations if temperature else 1, "temperature": temperature,
        "top_p": top_p, "max_new_tokens": max_new_tokens, "batch_size": batch_size, "seed": seed,
        "numbers": numbers,
    }  # fmt: skip
    if server is not None:
        groups = server(model, tokenizer, prompts, **sampling)
    else:
        groups = written_groups(model, tokenizer, prompts, name=name, **sampling)
    return groups if temperature else [group * num_generations for group in groups]
