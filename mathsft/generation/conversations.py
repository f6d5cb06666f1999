"""One conversation with an OpenAI-compatible server, through openai's own client.

The client tries again after a lost connection, a time-out, 408, 409, 429 and 5xx, with growing
pauses, or after as long as the server says. What fails all the same is told in the conversation's
line, and the work goes on. Errors that every request would meet end it: no server, a wrong key, an
unknown model.
"""

import asyncio
import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from mathsft.data.messages import REASONING
from mathsft.files import parse_json
from mathsft.generation.baskets import BasketPrompt
from mathsft.generation.server_forms import (
    API_KEY,
    ServerError,
    check_address,
    holds_key,
    on_this_machine,
)

_NO_KEY = "none"  # the client refuses an empty one
_OPENAI = "api.openai.com"
_FATAL = (401, 403, 404)
_MOST = 2**40  # tokens; a larger count is none
_LONGEST_PAUSE = 60.0  # seconds that the client waits at most, whatever the server says


class _FailedError(Exception):
    """An answer that could not be had or used; the message says why."""


@dataclass(frozen=True)
class Asker:
    """Asks a server for conversations; `api_client` makes its client.

    Args:
        client: openai's ``AsyncOpenAI``.
        sampling: what every request says besides its messages and its seed.
        seed: each answer's own seed is made from it; None sends none.
    """

    client: Any
    sampling: Mapping[str, Any]
    seed: int | None

    async def talk(self, prompt: BasketPrompt, sample: int) -> dict[str, Any]:
        """Return the line of one conversation (`mathsft.generation.baskets`).

        It ends early after an answer that was cut: the next prompt would follow half a message.

        Raises ServerError for an error that every request would meet.
        """
        told: list[dict[str, Any]] = prompt.system
        line: dict[str, Any] = {
            "id": prompt.id, "sample": sample, "conversation": told,
            "generated_message_indices": [], "finish_reasons": [], "prompt_tokens": [],
            "completion_tokens": [],
        }  # fmt: skip
        for turn, text in enumerate(prompt.prompts):
            told.append({"role": "user", "content": text})
            plain = [{name: message[name] for name in ("role", "content")} for message in told]
            try:
                given = await self._given(plain, _seed(self.seed, prompt.id, sample, turn))
                message, finish = _answer(given)
            except _FailedError as error:
                return line | {"error": str(error)}
            told.append(message)
            line["generated_message_indices"].append(len(told) - 1)
            line["finish_reasons"].append(finish)
            usage = given.get("usage")
            for name in ("prompt_tokens", "completion_tokens"):
                count = usage.get(name) if isinstance(usage, Mapping) else None
                line[name].append(count if type(count) is int and 0 <= count < _MOST else None)
            if finish != "stop":
                break
        return line

    async def _given(self, messages: list[dict[str, Any]], seed: int | None) -> dict[str, Any]:
        """The server's answer to one request, as JSON."""
        import openai

        about = {**self.sampling, **({} if seed is None else {"seed": seed})}
        create = self.client.chat.completions.with_raw_response.create
        try:
            async with asyncio.timeout(self._longest):
                raw = await create(messages=messages, **about)
            if holds_key(raw.text, self._key):
                raise _FailedError("the server's answer holds the API key, so it is not kept")
            found = parse_json(raw.text, "the server's answer")
        except openai.APIStatusError as error:
            told = self._hidden(f"the server answered {error.status_code}: {error.response.text}")
            if error.status_code not in _FATAL:
                raise _FailedError(told) from None
            hint = f" Set the environment variable {API_KEY}." if error.status_code != 404 else ""
            raise ServerError(f"{self.client.base_url}: {told}{hint}") from None
        except (openai.APITimeoutError, TimeoutError):
            raise _FailedError("no answer in time") from None
        except openai.APIConnectionError as error:
            # The class is that of httpx or httpx2, as the client's version decides.
            if type(error.__cause__).__name__ == "ConnectError":
                raise ServerError(
                    f"{self.client.base_url}: no server answers ({error.__cause__}). Is it "
                    "running, and is base_url its address? The same call resumes"
                ) from None
            raise _FailedError(f"the connection was lost ({error.__cause__})") from None
        except (openai.OpenAIError, ValueError) as error:
            raise _FailedError(self._hidden(str(error))) from None
        if not isinstance(found, dict):
            raise _FailedError(f"the server's answer is no object: {raw.text!r:.100}")
        return found

    @property
    def _key(self) -> str:
        key: str = self.client.api_key
        return "" if key == _NO_KEY else key

    @property
    def _longest(self) -> float:
        """Seconds for a request and its repetitions.

        The client's own limit is for a pause in the answer: one that comes byte by byte has none.
        """
        return float((self.client.max_retries + 1) * (self.client.timeout + _LONGEST_PAUSE))

    def _hidden(self, text: str) -> str:
        """A server's message in one line, without the key."""
        text = text.replace(self._key, "…") if self._key else text
        return " ".join(text.split())[:300]


def _answer(given: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """The message that the model wrote, and why it ended."""
    choices = given.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, Mapping) else None
    if not isinstance(choice, Mapping) or not isinstance(message, Mapping):
        raise _FailedError(f"the server's answer holds no message: {given!r:.100}")
    found, finish = message.get("content"), choice.get("finish_reason")
    if message.get("tool_calls"):
        raise _FailedError("the model called a tool, and none was offered")
    if not isinstance(found, str | None) or not isinstance(finish, str):
        raise _FailedError(f"expected a text and a finish reason, found {choice!r:.100}")
    thought = {name: message[name] for name in REASONING if isinstance(message.get(name), str)}
    made = {"role": "assistant", "content": found or "", **thought}
    try:
        "".join(made.values()).encode()
    except UnicodeEncodeError:
        raise _FailedError("the answer holds half a character, which is not valid text") from None
    return made, finish


def _seed(seed: int | None, key: str | int, sample: int, turn: int) -> int | None:
    """A seed of its own for each answer, which does not depend on the other rows."""
    if seed is None:
        return None
    told = hashlib.sha256(f"{seed}/{key}/{sample}/{turn}".encode()).digest()
    return int.from_bytes(told[:4], "big") >> 1


def api_address(base_url: str) -> str:
    """A server's address with a path, ``/v1`` if it has none. Raises as `check_address` does."""
    address = check_address(base_url)
    return address + ("" if urlsplit(address).path else "/v1")


def api_client(address: str, *, retries: int, timeout: float) -> Any:
    """Return openai's client for a server; use it in ``async with``.

    Args:
        address: from `api_address`. No proxy is used for this machine.
        retries: how often a request is sent again.
        timeout: seconds to wait for an answer.

    The key is that of the environment variable MATHSFT_API_KEY. OPENAI_API_KEY is sent to OpenAI
    only. Raises ImportError if openai is not installed.
    """
    try:
        from openai import AsyncOpenAI, DefaultAsyncHttpxClient
    except ImportError:
        raise ImportError(
            'a prompt basket needs the package openai: pip install "mathsft[data]"'
        ) from None
    key = os.environ.get(API_KEY)
    if not key and urlsplit(address).hostname == _OPENAI:
        key = os.environ.get("OPENAI_API_KEY")
    return AsyncOpenAI(
        base_url=address,
        api_key=key or _NO_KEY,
        max_retries=retries,
        timeout=timeout,
        http_client=DefaultAsyncHttpxClient(trust_env=not on_this_machine(address)),
    )
