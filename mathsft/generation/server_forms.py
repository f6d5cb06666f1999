"""What each server is asked and how it answers: vLLM, SGLang, transformers.

What a request leaves out, a server fills from the checkpoint's generation config, which may hold a
repetition penalty. So every request says all of it.
"""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import httpx

from mathsft.checks import unknown_name
from mathsft.files import parse_json

API_KEY = "MATHSFT_API_KEY"
_SECRET = 12  # letters; a shorter key, such as EMPTY or token, may be a word of an answer
PLAIN = {
    "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0, "frequency_penalty": 0.0,
    "presence_penalty": 0.0,
}  # fmt: skip


class ServerError(RuntimeError):
    """A server did not give what was asked for; the message says what to do."""


Ask = Callable[..., Any]  # the method, the path, and what is sent as JSON


def address_of(base_url: str) -> str:
    """A server's address without ``/v1``. Raises what `check_address` raises."""
    return check_address(base_url).removesuffix("/v1")


def check_address(base_url: str) -> str:
    """The address without spaces around it and a slash at its end.

    Raises ValueError for what is no address, and for one with a user name, a password or a query:
    results and errors show addresses.
    """
    given = base_url.strip() if isinstance(base_url, str) else ""
    if "@" in given or "?" in given:
        raise ValueError(
            "base_url holds a user name, a password or a query, which results and errors would "
            f"show: give the address alone, and a key in the environment variable {API_KEY}"
        )
    try:
        parts = urlsplit(given)
        good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # half an IPv6 address; a port above 65,535
        good = False
    if not good:
        raise ValueError(
            f"base_url={base_url!r:.200}: give the server's address, such as http://localhost:8000"
        )
    return given.rstrip("/")


def holds_key(text: str, key: str) -> bool:
    """Whether a server's answer repeats the key; answers are stored and shown."""
    return len(key) >= _SECRET and key in text


@contextmanager
def connected(base_url: str, *, timeout: float, api_key: str | None = None) -> Iterator[Ask]:
    """Yield a function that asks the server (`asked`).

    Args:
        base_url: the server's address, with or without ``/v1``.
        timeout: seconds to wait for one answer.
        api_key: default: the environment variable MATHSFT_API_KEY, if it is set.
    """
    key = api_key or os.environ.get(API_KEY) or ""
    with client_of(address_of(base_url), timeout=timeout, key=key) as client:
        yield partial(asked, client, key)


def client_of(address: str, *, timeout: float, key: str = "") -> httpx.Client:
    """A client for one server, which sends the key to it alone; close it after use."""
    return httpx.Client(
        base_url=address,
        headers={"Authorization": f"Bearer {key}"} if key else {},
        timeout=timeout,
        trust_env=not on_this_machine(address),
        limits=httpx.Limits(max_connections=None),  # the caller bounds its requests
    )


# text, ids, logprobs, finish, and the token (if known) that ended it: matched
Answer = dict[str, Any]


def _choices(given: Any, n: int) -> list[Any]:
    choices: Any = given.get("choices") if isinstance(given, dict) else None
    if not is_objects(choices) or len(choices) != n:
        raise ServerError(f"the server did not give {n} answers to a prompt: {given!r:.100}")
    return choices


def _from_vllm(
    ask: Any, ids: list[int], seed: int, *, model: str, n: int, max_new_tokens: int, sampling: Any
) -> list[Answer]:
    # vLLM gives answer i of n the seed + i.
    body = {
        "model": model, "prompt": ids, "n": n, "max_tokens": max_new_tokens, "seed": seed,
        "logprobs": 1, "return_token_ids": True, **sampling, **PLAIN,
    }  # fmt: skip
    choices = _choices(ask("POST", "/v1/completions", body), n)
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
        {"max_new_tokens": max_new_tokens, "sampling_seed": seed + copy, **sampling, **PLAIN}
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
    # It reads text, and refuses fields that it does not know. A text to stop at stays in the
    # answer.
    config = {
        "do_sample": False, "max_new_tokens": max_new_tokens,
        "eos_token_id": sampling["stop_token_ids"],
    }  # fmt: skip
    body = {"model": model, "prompt": text, "generation_config": json.dumps(config)}
    if sampling.get("stop"):
        body["stop"] = sampling["stop"]
    choices = _choices(ask("POST", "/v1/completions", {**body, "temperature": 0.0}), n)
    return [{"text": one.get("text"), "finish": one.get("finish_reason")} for one in choices]


def _from_chat(
    ask: Any, messages: Any, seed: int, *, model: str, n: int, max_new_tokens: int, sampling: Any
) -> list[Answer]:
    # What every server of chats takes. Such servers take at most four texts to stop at.
    body = {
        "model": model, "messages": messages, "n": n, "max_tokens": max_new_tokens, "seed": seed,
        "temperature": sampling["temperature"], "top_p": sampling["top_p"],
    }  # fmt: skip
    if sampling.get("stop"):
        body["stop"] = sampling["stop"][:4]
    choices = _choices(ask("POST", "/v1/chat/completions", body), n)
    return [
        {"text": (one.get("message") or {}).get("content"), "finish": one.get("finish_reason")}
        for one in choices
    ]


WRITERS: dict[str, Any] = {
    "vllm": _from_vllm,
    "sglang": _from_sglang,
    "transformers": _from_transformers,
    "chat": _from_chat,
}


def on_this_machine(address: str) -> bool:
    """Whether a server is on this machine: no proxy is used for it."""
    return urlsplit(address).hostname in {"localhost", "127.0.0.1", "::1"}


def is_objects(given: Any) -> bool:
    """Whether this is a list of JSON objects."""
    return isinstance(given, list) and all(isinstance(one, dict) for one in given)


def cards_in(listed: Any) -> list[dict[str, Any]]:
    """What ``/v1/models`` says about each model; none if the answer has another form."""
    cards = listed.get("data") if isinstance(listed, dict) else None
    return cards if isinstance(cards, list) and is_objects(cards) else []


def kind_of(listed: Any, model: str, address: str) -> str:
    """Return which server it is, from its list of models, and check that it serves ``model``."""
    owners = {str(card.get("id")): str(card.get("owned_by")) for card in cards_in(listed)}
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
    except httpx.TimeoutException:
        raise ServerError(
            f"{where}: no answer in time. Give a longer timeout, a smaller concurrency, or smaller "
            "max_new_tokens or num_generations"
        ) from None
    except httpx.HTTPError as error:
        raise ServerError(
            f"{where}: no server answers ({error}). Is it running, and is base_url its address?"
        ) from None
    text = response.text
    if response.is_success:
        if holds_key(text, key):
            raise ServerError(f"{where}: the answer holds the API key, so it is not used")
        try:
            return parse_json(text, "")
        except ValueError:
            raise ServerError(f"{where}: the answer is not JSON: {text!r:.100}") from None
    text = (text.replace(key, "…") if key else text)[:500]
    hint = f" Set {API_KEY}, or give api_key." if response.status_code in (401, 403) else ""
    raise ServerError(f"{where}: the server answered {response.status_code}: {text}{hint}")
