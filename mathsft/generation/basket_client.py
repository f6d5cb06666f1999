"""Generate answers to a prompt basket through any OpenAI-compatible server.

Each conversation becomes a line of the file as soon as it has ended, so the same call resumes.
Conversations that failed are lines too; the same call tries them again.

One request asks for one answer, each with its own seed. ``n`` answers in one request would be
cheaper if a server bills the prompt once, but transformers serve refuses ``n``, and SGLang gives
all of them the same seed.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from mathsft.bars import progress
from mathsft.checks import ABOVE_0, AT_LEAST_0, SHARE, at_least, check_number
from mathsft.files import check_writable
from mathsft.generation.basket_cost import estimated
from mathsft.generation.basket_report import Answers, Todo, failed, told
from mathsft.generation.baskets import KEY, KIND, check_line, read_basket
from mathsft.generation.conversations import Asker, api_address, api_client
from mathsft.generation.journal import add_lines, check_settings, open_journal, read_journal
from mathsft.generation.server_forms import ServerError
from mathsft.in_use import claimed_file
from mathsft.processes import say

_NOT_EXTRA = (
    "model", "messages", "temperature", "top_p", "seed", "stop", "max_tokens", "stream", "n",
    "max_completion_tokens",
)  # fmt: skip
_HOPELESS = 16  # failures before the first answer


def generate_basket(
    basket: str | Path | Iterable[Mapping[str, Any]],
    base_url: str,
    *,
    model: str,
    file: str | Path = "answers.jsonl",
    columns: Mapping[str, str] | None = None,
    num_generations: int = 1,
    temperature: float | None = 1.0,
    top_p: float | None = 1.0,
    max_new_tokens: int = 512,
    seed: int | None = 0,
    stop: Sequence[str] = (),
    extra_body: Mapping[str, Any] | None = None,
    limit_key: Literal["max_tokens", "max_completion_tokens"] = "max_tokens",
    concurrency: int = 8,
    retries: int = 6,
    timeout: float = 600.0,
    input_price: float | None = None,
    output_price: float | None = None,
    max_cost: float | None = None,
    tokenizer: Any = None,
    check: bool = False,
) -> Answers:
    """Generate a conversation for each prompt of a basket, and write them to ``file``.

    It first prints what is still to be generated, and what that costs at most. The API key is that
    of the environment variable MATHSFT_API_KEY (OPENAI_API_KEY is used for OpenAI's own server
    only). It is neither shown nor stored. Works in a notebook too.

    Args:
        basket: a file of prompts, or rows, as `read_basket` takes them.
        base_url: the server's address, such as ``http://localhost:8000/v1``.
        model: the model's name on the server.
        file: the file of JSON lines that the answers are added to; missing folders are created. If
            it exists, the conversations in it are kept, and only the others are generated.
        columns: your own names for the basket's columns, as in `read_basket`.
        num_generations: conversations per prompt. More of them can be added later.
        temperature: the logits are divided by it; 0 is greedy. None: the server's default.
        top_p: sample only from the likeliest tokens that together have this probability; 1: all.
            None: the server's default.
        max_new_tokens: an answer that has not stopped after this many tokens is cut.
        seed: each answer gets its own seed, made from this one, the prompt's id, and its place in
            the conversations. A server may still answer differently from call to call, because its
            batches depend on what else it serves. None sends no seed.
        stop: texts that end an answer.
        extra_body: further settings of the server, such as ``{"top_k": 20}``. What a request does
            not say, a server may take from the checkpoint's generation config.
        limit_key: the request's key for ``max_new_tokens``; OpenAI's newer models need
            ``max_completion_tokens``.
        concurrency: conversations that are held at the same time.
        retries: how often a request is sent again after a lost connection, a time-out, 429 or 5xx.
            The pauses grow from half a second to 8 seconds, or are as long as the server says.
        timeout: seconds to wait for one answer.
        input_price: for a million prompt tokens, in any currency.
        output_price: for a million tokens of answers.
        max_cost: refuse to begin if the estimate is above this; it needs both prices.
        tokenizer: counts the prompts' tokens for the estimate: a tokenizer, or the folder or hub
            name of one. Default: one token for each 3 bytes of text.
        check: only print the estimate: no request is sent, and nothing is written.

    Raises:
        ValueError: what `read_basket` raises; an impossible number or address; an estimate above
            ``max_cost``; a file that is in use, is broken, was not written by this function, or was
            begun with other settings or another prompt for an id.
        ServerError: nothing answers at the address; a wrong key; an unknown model; or the first 16
            conversations all failed. What was generated before is in the file.
        ImportError: the package openai is not installed.
    """
    needed = {
        "concurrency": (concurrency, at_least(1)), "retries": (retries, at_least(0)),
        "timeout": (timeout, ABOVE_0), "num_generations": (num_generations, at_least(1)),
        "max_new_tokens": (max_new_tokens, at_least(1)),
    }  # fmt: skip
    maybe = {
        "temperature": (temperature, AT_LEAST_0), "top_p": (top_p, SHARE),
        "seed": (seed, at_least(0)), "input_price": (input_price, AT_LEAST_0),
        "output_price": (output_price, AT_LEAST_0), "max_cost": (max_cost, AT_LEAST_0),
    }  # fmt: skip
    for name, (value, rule) in {**needed, **maybe}.items():
        if value is not None or name in needed:
            check_number(name, value, rule)
    prices = _prices(input_price, output_price, max_cost)
    if own := sorted({*(extra_body or {})} & {*_NOT_EXTRA}):
        raise ValueError(f"extra_body: {own[0]!r} is an argument of its own, or cannot be used")
    address, path = api_address(base_url), Path(file)
    settings = {
        "model": model, "temperature": temperature, "top_p": top_p, limit_key: max_new_tokens,
        "seed": seed, "stop": list(stop), "extra_body": dict(extra_body or {}),
    }  # fmt: skip
    prompts = read_basket(basket, columns=columns)
    every = [(prompt, sample) for sample in range(num_generations) for prompt in prompts]
    theirs, found = read_journal(path, kind=KIND, key=KEY)
    check_settings(path, theirs, settings)
    done = {key: line for key, line in found.results.items() if not failed(line)}
    estimate = estimated(
        [prompt for prompt, _ in _todo(path, every, done)],
        max_new_tokens=max_new_tokens, tokenizer=_loaded(tokenizer), prices=prices,
    )  # fmt: skip
    say(str(estimate))
    if max_cost is not None and (estimate.cost or 0) > max_cost:
        raise ValueError(
            f"this may cost {estimate.cost:.4f}, and max_cost is {max_cost}: ask for fewer or "
            "shorter answers, or allow more"
        )
    if check:
        return Answers([], {"conversations": len(every), "generated": 0}, estimate)
    check_writable(path.parent)
    with claimed_file(path, device=None):
        done, half, again = open_journal(path, settings, kind=KIND, key=KEY, failed=failed)
        todo = _todo(path, every, done)
        add = partial(_add, path, done)
        if todo:
            sent = {name: v for name, v in settings.items() if v is not None and v not in ([], {})}
            sent.pop("seed", None)
            client = partial(api_client, address, retries=retries, timeout=timeout)
            _in_a_loop(partial(_talk_all, client, sent, seed, todo, concurrency, add))
    counts = {"half line removed": half, "failures tried again": again}
    return told(every, todo, done, counts, estimate, prices)


def _prices(
    input_price: float | None, output_price: float | None, max_cost: float | None
) -> tuple[float, float] | None:
    if input_price is not None and output_price is not None:
        return input_price, output_price
    if (input_price, output_price, max_cost) != (None, None, None):
        raise ValueError(
            "the cost needs both input_price and output_price, for a million tokens each"
        )
    return None


def _loaded(tokenizer: Any) -> Any:
    if not isinstance(tokenizer, str | Path):
        return tokenizer
    from mathsft.models.model_files import checked_source  # torch is not needed otherwise
    from mathsft.models.pretrained import load_tokenizer

    return load_tokenizer(checked_source(tokenizer, None), None)


def _todo(path: Path, every: Todo, done: Mapping[Any, Mapping[str, Any]]) -> Todo:
    """The conversations that are not there yet; ValueError if one there had another prompt."""
    for (key, sample), line in done.items():
        check_line(line, where=f"{path}, the line with id {key!r} and sample {sample}")
    for prompt, sample in every:
        there = done.get((prompt.id, sample))
        if there is not None and not prompt.asks(there):
            raise ValueError(
                f"{path}: the conversation with id {prompt.id!r} has other prompts there than in "
                "the basket: give another file"
            )
    return [(prompt, sample) for prompt, sample in every if (prompt.id, sample) not in done]


def _add(path: Path, done: dict[Any, Any], line: dict[str, Any]) -> None:
    add_lines(path, [line])
    done[line["id"], line["sample"]] = line


def _in_a_loop(work: Callable[[], Any]) -> None:
    """Run asynchronous work in a thread of its own: a notebook's thread has a running loop.

    Ctrl-C, or the notebook's stop button, cancels it.
    """
    from anyio.from_thread import start_blocking_portal  # comes with openai and httpx

    with start_blocking_portal() as portal:
        portal.call(work)


async def _talk_all(
    client: Callable[[], Any],
    sampling: Mapping[str, Any],
    seed: int | None,
    todo: Todo,
    concurrency: int,
    add: Callable[[dict[str, Any]], None],
) -> None:
    """Hold all conversations, at most ``concurrency`` at a time."""
    left, failures, answered = iter(todo), 0, False
    async with client() as connection:
        asker = Asker(connection, sampling, seed)
        with progress(total=len(todo), desc="conversations") as bar:

            async def work() -> None:
                nonlocal failures, answered
                for prompt, sample in left:  # all workers take from the same list
                    line = await asker.talk(prompt, sample)
                    add(line)
                    failures += failed(line)
                    answered = answered or not failed(line)
                    bar.set_postfix({"failed": failures}, refresh=False)
                    bar.update()
                    if failures == _HOPELESS and not answered:
                        raise ServerError(
                            f"the first {_HOPELESS} conversations all failed, the last one with: "
                            f"{line['error']}"
                        )

            workers = [asyncio.ensure_future(work()) for _ in todo[:concurrency]]
            try:
                await asyncio.gather(*workers)
            finally:
                for worker in workers:
                    worker.cancel()
                await asyncio.gather(*workers, return_exceptions=True)
