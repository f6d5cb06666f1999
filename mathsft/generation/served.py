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
  (``logprobs`` is accepted and ignored). It cannot be used: `sample_groups` computes the same.

A server's model may differ from ours in more than rounding. So measure it before training
(`mathsft.generation.mismatch`).
"""

import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Literal
from urllib.parse import urlsplit

import httpx
import numpy as np
from tqdm.auto import tqdm

from mathsft.checks import ABOVE_0, SHARE, at_least, check_number, check_numbers, unknown_name
from mathsft.generation.rollouts import Completion
from mathsft.models.encoding import prompt_ids, stop_tokens

API_KEY = "MATHSFT_API_KEY"
_LOCAL = {"localhost", "127.0.0.1", "::1"}
# A server fills what a request leaves out from the checkpoint's generation config.
_PLAIN = {
    "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0, "frequency_penalty": 0.0,
    "presence_penalty": 0.0,
}  # fmt: skip


class ServerError(RuntimeError):
    """A server did not give what was asked for; the message says what to do."""


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
    if isinstance(prompts, str):
        raise ValueError(f"prompts: expected a list of texts, found one text: [{prompts!r:.40}]")
    check_number("num_generations", num_generations, at_least(1))
    check_number("temperature", temperature, ABOVE_0)
    check_number("top_p", top_p, SHARE)
    check_number("concurrency", concurrency, at_least(1))
    check_number("timeout", timeout, ABOVE_0)
    check_numbers({"max_new_tokens": max_new_tokens, "seed": seed})
    encoded = prompt_ids(tokenizer, prompts)
    for row, ids in enumerate(encoded):
        if not ids:
            raise ValueError(f"prompt {row} is empty: there is no token to continue")
    address = base_url.rstrip("/").removesuffix("/v1")
    key = api_key or os.environ.get(API_KEY) or ""
    stops = stop_tokens(None, tokenizer)
    sampling = {"temperature": temperature, "top_p": top_p, "stop_token_ids": stops, **_PLAIN}
    seeds = [
        int(np.random.SeedSequence([seed, number]).generate_state(1)[0] >> 2) + 1
        for number in (range(len(encoded)) if numbers is None else numbers)
    ]
    with httpx.Client(
        base_url=address,
        headers={"Authorization": f"Bearer {key}"} if key else {},
        timeout=timeout,
        trust_env=urlsplit(address).hostname not in _LOCAL,  # no proxy for this machine
    ) as client:
        ask = partial(_asked, client, key)
        kind = server or _kind_of(ask("GET", "/v1/models"), model, address)
        about = {"n": num_generations, "max_new_tokens": max_new_tokens, "sampling": sampling}
        write = partial(_WRITERS[kind], ask, model=model, **about)
        pool = ThreadPoolExecutor(concurrency)
        try:
            answers = list(tqdm(pool.map(write, encoded, seeds), total=len(encoded), leave=False))
        finally:
            pool.shutdown(cancel_futures=True)
    return [
        [_completion(answer, tokenizer, stops, where=f"prompt {row}") for answer in group]
        for row, group in enumerate(answers)
    ]


_Answer = dict[str, Any]  # ids, logprobs, finish, and the token (if known) that ended it: matched


def _from_vllm(
    ask: Any, ids: list[int], seed: int, *, model: str, n: int, max_new_tokens: int, sampling: Any
) -> list[_Answer]:
    # vLLM gives answer i of n the seed + i.
    body = {
        "model": model, "prompt": ids, "n": n, "max_tokens": max_new_tokens, "seed": seed,
        "logprobs": 1, "return_token_ids": True, **sampling,
    }  # fmt: skip
    given = ask("POST", "/v1/completions", body)
    choices = given.get("choices") if isinstance(given, dict) else None
    if not isinstance(choices, list) or len(choices) != n:
        raise ServerError(f"the server did not give {n} answers to a prompt: {given!r:.100}")
    return [
        {
            "ids": choice.get("token_ids"),
            "logprobs": (choice.get("logprobs") or {}).get("token_logprobs"),
            "finish": choice.get("finish_reason"),
            "matched": choice.get("stop_reason"),
        }
        for choice in sorted(choices, key=lambda choice: choice.get("index", 0))
    ]


def _from_sglang(
    ask: Any, ids: list[int], seed: int, *, model: str, n: int, max_new_tokens: int, sampling: Any
) -> list[_Answer]:
    # One entry for each answer: with "n" all would get the same seed.
    each = [
        {"max_new_tokens": max_new_tokens, "sampling_seed": seed + copy, **sampling}
        for copy in range(n)
    ]
    body = {"input_ids": [ids] * n, "sampling_params": each, "return_logprob": True}
    given = ask("POST", "/generate", body)
    if not isinstance(given, list) or len(given) != n:
        raise ServerError(f"the server did not give {n} answers to a prompt: {given!r:.100}")
    found = []
    for about in (answer.get("meta_info") or {} for answer in given):
        tokens, finish = about.get("output_token_logprobs"), about.get("finish_reason") or {}
        found.append(
            {
                "ids": tokens and [token for _, token, *_ in tokens],
                "logprobs": tokens and [value for value, *_ in tokens],
                "finish": finish.get("type"),
                "matched": finish.get("matched"),
            }
        )
    return found


_WRITERS: dict[str, Any] = {"vllm": _from_vllm, "sglang": _from_sglang}


def _completion(answer: _Answer, tokenizer: Any, stops: list[int], *, where: str) -> Completion:
    """Check an answer; raise ServerError if training could not use it."""
    ids, logprobs, finish = answer["ids"], answer["logprobs"], answer["finish"]
    for name, values in (("token ids", ids), ("log-probabilities", logprobs)):
        if not values:
            raise ServerError(
                f"{where}: the server returned no {name}, which training needs. vLLM returns them "
                "from version 0.10.2, SGLang from its /generate; other servers cannot be used"
            )
    if len(ids) != len(logprobs) or not all(v is not None and math.isfinite(v) for v in logprobs):
        raise ServerError(
            f"{where}: {len(ids)} tokens and {len(logprobs)} log-probabilities; expected a finite "
            "one for each token"
        )
    if finish not in ("stop", "length"):
        raise ServerError(f"{where}: the server broke off an answer (finish_reason {finish!r})")
    if finish == "stop" and ids[-1] not in [*stops, answer["matched"]]:
        raise ServerError(
            f"{where}: an answer stopped, but its last token ({ids[-1]}) is not a stop token of "
            "the tokenizer. Give the tokenizer of the served model; do not set stop texts there"
        )
    text = tokenizer.decode(ids, skip_special_tokens=True)
    return Completion(ids, text=text, ended=finish == "stop", logprobs=logprobs)


def _kind_of(listed: Any, model: str, address: str) -> str:
    """Return which server it is, from its list of models, and check that it serves ``model``."""
    cards = listed.get("data") or [] if isinstance(listed, dict) else []
    owners = {str(card.get("id")): str(card.get("owned_by")) for card in cards}
    if not set(owners.values()) & _WRITERS.keys():
        raise ServerError(
            f"{address} is {' or '.join(set(owners.values())) or 'unknown'}, not vLLM or SGLang. "
            "Others, such as transformers serve, return no token ids and log-probabilities. If one "
            "of the two is behind it, give server='vllm' or server='sglang'"
        )
    if model not in owners:
        raise ServerError(f"{address}: {unknown_name('model', model, owners)}")
    return owners[model]


def _asked(client: httpx.Client, key: str, method: str, path: str, body: Any = None) -> Any:
    """Return a server's answer to one request, or raise its error in plain words."""
    where = f"{client.base_url.copy_with(path=path)}"
    try:
        response = client.request(method, path, json=body)
        found = response.json() if response.is_success else None
    except httpx.TimeoutException:
        raise ServerError(
            f"{where}: no answer in time. Give a longer timeout, a smaller concurrency, or smaller "
            "max_new_tokens or num_generations"
        ) from None
    except httpx.HTTPError as error:
        raise ServerError(
            f"{where}: no server answers ({error}). Is it running, and is base_url its address?"
        ) from None
    except ValueError:
        raise ServerError(f"{where}: the answer is not JSON: {response.text!r:.100}") from None
    if response.is_success:
        return found
    text = response.text[:500]
    text = text.replace(key, "…") if key else text
    hint = f" Set {API_KEY}, or give api_key." if response.status_code in (401, 403) else ""
    raise ServerError(f"{where}: the server answered {response.status_code}: {text}{hint}")
