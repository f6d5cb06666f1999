"""What each server is asked and how it answers: vLLM, SGLang, transformers.

What a request leaves out, a server fills from the checkpoint's generation config, which may hold a
repetition penalty. So every request says all of it.
"""

import json
from typing import Any
from urllib.parse import urlsplit

import httpx

from mathsft.checks import unknown_name

API_KEY = "MATHSFT_API_KEY"
_LOCAL = {"localhost", "127.0.0.1", "::1"}
_PLAIN = {
    "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0, "frequency_penalty": 0.0,
    "presence_penalty": 0.0,
}  # fmt: skip


class ServerError(RuntimeError):
    """A server did not give what was asked for; the message says what to do."""


# text, ids, logprobs, finish, and the token (if known) that ended it: matched
Answer = dict[str, Any]


def _from_vllm(
    ask: Any, ids: list[int], seed: int, *, model: str, n: int, max_new_tokens: int, sampling: Any
) -> list[Answer]:
    # vLLM gives answer i of n the seed + i.
    body = {
        "model": model, "prompt": ids, "n": n, "max_tokens": max_new_tokens, "seed": seed,
        "logprobs": 1, "return_token_ids": True, **sampling, **_PLAIN,
    }  # fmt: skip
    given = ask("POST", "/v1/completions", body)
    choices = given.get("choices") if isinstance(given, dict) else None
    if not isinstance(choices, list) or len(choices) != n:
        raise ServerError(f"the server did not give {n} answers to a prompt: {given!r:.100}")
    return [
        {
            "text": choice.get("text"),
            "ids": choice.get("token_ids"),
            "logprobs": (choice.get("logprobs") or {}).get("token_logprobs"),
            "finish": choice.get("finish_reason"),
            "matched": choice.get("stop_reason"),
        }
        for choice in sorted(choices, key=lambda choice: choice.get("index", 0))
    ]


def _from_sglang(
    ask: Any, ids: list[int], seed: int, *, model: str, n: int, max_new_tokens: int, sampling: Any
) -> list[Answer]:
    # One entry for each answer: with "n" all would get the same seed.
    each = [
        {"max_new_tokens": max_new_tokens, "sampling_seed": seed + copy, **sampling, **_PLAIN}
        for copy in range(n)
    ]
    body = {"input_ids": [ids] * n, "sampling_params": each, "return_logprob": True}
    given = ask("POST", "/generate", body)
    if not isinstance(given, list) or len(given) != n:
        raise ServerError(f"the server did not give {n} answers to a prompt: {given!r:.100}")
    found = []
    for answer in given:
        about = answer.get("meta_info") or {}
        tokens, finish = about.get("output_token_logprobs"), about.get("finish_reason") or {}
        found.append(
            {
                "text": answer.get("text"),
                "ids": tokens and [token for _, token, *_ in tokens],
                "logprobs": tokens and [value for value, *_ in tokens],
                "finish": finish.get("type"),
                "matched": finish.get("matched"),
            }
        )
    return found


def _from_transformers(
    ask: Any, text: str, seed: int, *, model: str, n: int, max_new_tokens: int, sampling: Any
) -> list[Answer]:
    # It reads text, and refuses fields that it does not know.
    config = {
        "do_sample": False, "max_new_tokens": max_new_tokens,
        "eos_token_id": sampling["stop_token_ids"],
    }  # fmt: skip
    body = {"model": model, "prompt": text, "generation_config": json.dumps(config)}
    given = ask("POST", "/v1/completions", {**body, "temperature": 0.0})
    choices = given.get("choices") if isinstance(given, dict) else None
    if not isinstance(choices, list) or len(choices) != n:
        raise ServerError(f"the server did not give {n} answers to a prompt: {given!r:.100}")
    return [
        {"text": choice.get("text"), "finish": choice.get("finish_reason")} for choice in choices
    ]


WRITERS: dict[str, Any] = {
    "vllm": _from_vllm,
    "sglang": _from_sglang,
    "transformers": _from_transformers,
}


def on_this_machine(address: str) -> bool:
    """Whether a server is on this machine: no proxy is used for it."""
    return urlsplit(address).hostname in _LOCAL


def kind_of(listed: Any, model: str, address: str) -> str:
    """Return which server it is, from its list of models, and check that it serves ``model``."""
    cards = listed.get("data") or [] if isinstance(listed, dict) else []
    owners = {str(card.get("id")): str(card.get("owned_by")) for card in cards}
    if not set(owners.values()) & {"vllm", "sglang"}:
        raise ServerError(
            f"{address} is {' or '.join(set(owners.values())) or 'unknown'}, not vLLM or SGLang. "
            "Others, such as transformers serve, return no token ids and log-probabilities. If one "
            "of the two is behind it, give server='vllm' or server='sglang'. Greedy answers need "
            "neither: for them, server='transformers' does too"
        )
    if model not in owners:
        raise ServerError(f"{address}: {unknown_name('model', model, owners)}")
    return owners[model]


def asked(client: httpx.Client, key: str, method: str, path: str, body: Any = None) -> Any:
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
