"""Sample answers from a server: vLLM or SGLang, by their address.

Training needs the very tokens that were drawn and their log-probabilities. Text that is encoded
again may give other tokens, so the ids must come from the server:

- vLLM (0.10.2 or later): ``POST /v1/completions`` with the prompt as token ids, ``logprobs`` and
  ``return_token_ids``. Start it with ``--logprobs-mode processed_logprobs`` if the temperature is
  not 1: by default it gives the log-probabilities at temperature 1.
- SGLang (0.5): its own ``POST /generate`` with ``input_ids`` and ``return_logprob``. They are at
  the sampling temperature, unless SGLANG_RETURN_ORIGINAL_LOGPROB is set. It follows the seed only
  with ``--enable-deterministic-inference``.
- ``transformers serve`` (5.23) takes no token ids, and returns neither ids nor log-probabilities
  (``logprobs`` is accepted and ignored). It cannot be used for training: `sample_groups` computes
  the same.

Greedy answers are not trained on (`mathsft.generation.generate`), so their text is enough. For them
``transformers serve`` can be used too: it gets the prompt as text, if its tokens come from one, and
our own generation config.

A server's model may differ from ours in more than rounding. So measure it before training
(`mathsft.generation.mismatch`).
"""

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Literal

import numpy as np

from mathsft.bars import progress
from mathsft.checks import ABOVE_0, AT_LEAST_0, SHARE, at_least, check_number, check_numbers
from mathsft.generation.rollouts import Completion, check_prompts
from mathsft.generation.server_forms import (
    WRITERS,
    Answer,
    Ask,
    ServerError,
    address_of,
    connected,
    kind_of,
)
from mathsft.models.encoding import prompt_ids, stop_tokens


def served_groups(
    base_url: str,
    tokenizer: Any,
    prompts: Sequence[str] | Sequence[Sequence[int]],
    *,
    model: str,
    num_generations: int = 8,
    temperature: float = 1.0,
    top_p: float = 1.0,
    max_new_tokens: int = 256,
    seed: int = 0,
    numbers: Sequence[int] | None = None,
    server: Literal["vllm", "sglang"] | None = None,
    api_key: str | None = None,
    concurrency: int = 8,
    timeout: float = 600.0,
) -> list[list[Completion]]:
    """Return answers as `mathsft.generation.rollouts.sample_groups` does, written by a server.

    Args:
        base_url: the server's address, such as ``http://localhost:8000``, with or without ``/v1``.
        tokenizer: that of the served model. It encodes the prompts and names the stop tokens.
        prompts: texts, as the model was trained to continue them; or their token ids.
        model: the model's name on the server (in vLLM also that of a LoRA adapter).
        num_generations: answers per prompt.
        temperature: the logits are divided by it.
        top_p: sample only from the likeliest tokens that together have this probability; 1: all.
        max_new_tokens: an answer that has not stopped after this many tokens is cut.
        seed: gives each prompt its own seed. A server may still answer differently from call to
            call, because its batches depend on what else it serves.
        numbers: for each prompt the number that its seed comes from; default: its place.
        server: what answers there; default: as ``/v1/models`` says (``owned_by``). Give it if a
            proxy hides that.
        api_key: default: the environment variable MATHSFT_API_KEY, if it is set. It is sent to
            ``base_url`` only, and never shown.
        concurrency: prompts that are asked at the same time.
        timeout: seconds to wait for the answers to one prompt.

    Raises ValueError for one text instead of a list, or an impossible number. Raises ServerError
    if nothing answers, or too late; for an error of the server, with its message; for a model that
    it does not serve, with those that it does; and for an answer without token ids or
    log-probabilities. Then all prompts that were not asked yet are left out.
    """
    check_number("temperature", temperature, ABOVE_0)
    return groups_from_server(
        base_url, tokenizer, prompts, model=model, num_generations=num_generations,
        temperature=temperature, top_p=top_p, max_new_tokens=max_new_tokens, seed=seed,
        numbers=numbers, server=server, api_key=api_key, concurrency=concurrency, timeout=timeout,
    )  # fmt: skip


def groups_from_server(
    base_url: str,
    tokenizer: Any,
    prompts: Sequence[str] | Sequence[Sequence[int]],
    *,
    model: str,
    num_generations: int,
    temperature: float,
    top_p: float,
    max_new_tokens: int,
    seed: int,
    numbers: Sequence[int] | None,
    server: Literal["vllm", "sglang", "transformers"] | None,
    concurrency: int,
    timeout: float,
    api_key: str | None = None,
) -> list[list[Completion]]:
    """As `served_groups`, and greedy at temperature 0.

    Training does not use greedy answers, so a server may leave out their token ids and
    log-probabilities.
    """
    check_prompts(prompts)
    check_number("num_generations", num_generations, at_least(1))
    check_number("temperature", temperature, AT_LEAST_0)
    check_number("top_p", top_p, SHARE)
    check_number("concurrency", concurrency, at_least(1))
    check_number("timeout", timeout, ABOVE_0)
    check_numbers({"max_new_tokens": max_new_tokens, "seed": seed})
    encoded = prompt_ids(tokenizer, prompts)
    for row, ids in enumerate(encoded):
        if not ids:
            raise ValueError(f"prompt {row} is empty: there is no token to continue")
    address = address_of(base_url)
    stops = stop_tokens(None, tokenizer)
    sampling = {"temperature": temperature, "top_p": top_p, "stop_token_ids": stops}
    seeds = [
        int(np.random.SeedSequence([seed, number]).generate_state(1)[0] >> 2) + 1
        for number in (range(len(encoded)) if numbers is None else numbers)
    ]
    with connected(address, timeout=timeout, api_key=api_key) as ask:
        kind = server or kind_of(ask("GET", "/v1/models"), model, address)
        sent: Any = encoded
        if kind == "transformers":
            if temperature > 0:
                raise ServerError(
                    f"{address}: transformers serve returns no token ids and log-probabilities, "
                    "so it can only answer greedily (temperature=0)"
                )
            sent = [as_text(ids, tokenizer, where=f"prompt {n}") for n, ids in enumerate(encoded)]
        about: Any = {"n": num_generations, "max_new_tokens": max_new_tokens, "sampling": sampling}
        write = partial(answers_of, kind, ask, model=model, **about)
        pool = ThreadPoolExecutor(concurrency)
        try:
            answers = list(progress(pool.map(write, sent, seeds), desc="prompts", total=len(sent)))
        finally:
            pool.shutdown(cancel_futures=True)
    return [
        [
            _completion(answer, tokenizer, stops, where=f"prompt {row}", greedy=temperature == 0)
            for answer in group
        ]
        for row, group in enumerate(answers)
    ]


def answers_of(kind: str, ask: Ask, prompt: Any, seed: int, **about: Any) -> list[Answer]:
    """The answers of a server of this kind; ServerError if they have another form."""
    try:
        found: list[Answer] = WRITERS[kind](ask, prompt, seed, **about)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise ServerError(
            f"the server's answer has not the form of {kind} ({type(error).__name__}: {error}). "
            "Is it a server of the kind that it says (server=)?"
        ) from error
    return found


def _completion(
    answer: Answer, tokenizer: Any, stops: list[int], *, where: str, greedy: bool
) -> Completion:
    """Check an answer; raise ServerError if training could not use it, or it is broken off."""
    ids, logprobs = answer.get("ids") or [], answer.get("logprobs") or []
    if not is_numbers(ids, int) or not is_numbers(logprobs, int | float | None):
        raise ServerError(
            f"{where}: the server's token ids or log-probabilities are no numbers: {ids!r:.60}, "
            f"{logprobs!r:.60}"
        )
    for name, values in (("token ids", ids), ("log-probabilities", logprobs)):
        if not values and not greedy:
            raise ServerError(
                f"{where}: the server returned no {name}, which training needs. vLLM returns them "
                "from version 0.10.2, SGLang from its /generate; other servers cannot be used"
            )
    finish = answer["finish"]
    if finish not in ("stop", "length"):
        raise ServerError(f"{where}: the server broke off an answer (finish_reason {finish!r})")
    if not ids:
        if not isinstance(answer["text"], str):
            raise ServerError(f"{where}: the server returned neither token ids nor a text")
        return Completion([], text=answer["text"], ended=finish == "stop", logprobs=[])
    counted = len(ids) == len(logprobs) or (greedy and not logprobs)
    if not counted or not all(v is not None and math.isfinite(v) for v in logprobs):
        raise ServerError(
            f"{where}: {len(ids)} tokens and {len(logprobs)} log-probabilities; expected a finite "
            "one for each token"
        )
    if finish == "stop" and ids[-1] not in [*stops, answer["matched"]]:
        raise ServerError(
            f"{where}: an answer stopped, but its last token ({ids[-1]}) is not a stop token of "
            "the tokenizer. Give the tokenizer of the served model; do not set stop texts there"
        )
    text = tokenizer.decode(ids, skip_special_tokens=True)
    return Completion(ids, text=text, ended=finish == "stop", logprobs=logprobs)


def is_numbers(given: Any, kind: Any) -> bool:
    """Whether this is a list whose every item is of this kind of number."""
    return isinstance(given, list) and all(
        isinstance(one, kind) and not isinstance(one, bool) for one in given
    )


def as_text(ids: list[int], tokenizer: Any, *, where: str) -> str:
    """The text that a server's tokenizer encodes as these tokens."""
    for skip in (False, True):  # the tokenizer adds its first token itself
        text: str = tokenizer.decode(ids, skip_special_tokens=skip)
        if tokenizer(text).input_ids == ids:
            return text
    raise ServerError(
        f"{where}: no text gives these tokens back, and transformers serve takes only texts. Use "
        "vLLM or SGLang, or the model itself"
    )
