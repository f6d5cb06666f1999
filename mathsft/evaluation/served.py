"""Begin an evaluation by a server: what answers there, and can it do these tasks?"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from mathsft.checks import ABOVE_0, at_least, check_number
from mathsft.evaluation.served_model import Kind, ServedLM
from mathsft.generation.server_forms import (
    Ask,
    ServerError,
    address_of,
    cards_in,
    connected,
    kind_of,
)
from mathsft.generation.server_scores import continuation_score
from mathsft.models.model_files import TINY
from mathsft.models.pretrained import load_tokenizer

_SCORING = ("vllm", "sglang")  # they say how likely a given text is
_SAMPLE = "Ann has 12 cats, and 7 dogs. How many pets has she?"
_UNKNOWN = 10**6  # tokenizers without a limit name a huge number


@contextmanager
def served_lm(
    base_url: str,
    model: str | Path,
    tasks: Mapping[str, Any],
    *,
    tokenizer: Any = None,
    server: Kind | None = None,
    concurrency: int = 8,
    timeout: float = 600.0,
    seed: int = 0,
    progress_to: TextIO | None = None,
) -> Iterator[tuple[ServedLM, dict[str, Any]]]:
    """Yield the harness's model for a server, and what a result says about it (`about_model`).

    Before that, it is checked that the server can do these tasks.

    Args:
        base_url: the server's address, such as ``http://localhost:8000``, with or without ``/v1``.
        model: the model's name on the server.
        tasks: the loaded tasks, by name.
        tokenizer: the served model's, or where it is stored; default: ``model``.
        server: what answers there; default: as ``/v1/models`` says.
        concurrency: requests that are under way at the same time.
        timeout: seconds to wait for one answer.
        seed: of answers that are sampled.
        progress_to: where the progress bar is written; default: standard error.

    Raises:
        ValueError: a task needs log-likelihoods and the server gives none; the tokenizer is not
            the server's; a number is impossible.
        ServerError: nothing answers, the model is not served, or an answer is of no use.
        OSError: there is no tokenizer of that name.
    """
    check_number("concurrency", concurrency, at_least(1))
    check_number("timeout", timeout, ABOVE_0)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError("one process asks a server: start it without torchrun")
    address = address_of(base_url)
    model = str(model)
    with connected(address, timeout=timeout) as ask:
        listed = {} if server in ("transformers", "chat") else _models(ask)
        kind: Any = server or kind_of(listed, model, address)
        scored = [n for n, task in tasks.items() if task.OUTPUT_TYPE != "generate_until"]
        if scored and kind not in _SCORING:
            raise ValueError(
                f"{', '.join(scored[:5])}: needs log-likelihoods of given answers, which {address} "
                f"({kind}) does not give. vLLM and SGLang do; or evaluate the model itself, "
                "without base_url; or take a task with generated answers, such as gsm8k"
            )
        made = None if kind == "chat" else _tokenizer(model if tokenizer is None else tokenizer)
        lm = ServedLM(
            ask, name=model, kind=kind, tokenizer=made, max_length=_longest(listed, model, made),
            seed=seed, concurrency=concurrency, progress_to=progress_to,
        )  # fmt: skip
        if kind in _SCORING:
            _check_tokens(lm, ask, model)
        if scored:
            ids = lm.tok_encode(_SAMPLE)
            continuation_score(ask, kind, ids[:-1], ids[-1:], model=model)
        # Which weights a server has is not known.
        about = {
            "model": model, "adapter": "", "weights": "", "adapter_hash": "", "dtype": "",
            "quantized": False, "hardware": f"{kind} at {address}", "device": "cpu",
        }  # fmt: skip
        yield lm, about


def _models(ask: Ask) -> Any:
    try:
        return ask("GET", "/v1/models")
    except ServerError as error:  # transformers serve fails if there is no cache of the hub
        told = str(error) + "." * (str(error)[-1] not in ".?!")
        raise ServerError(
            f"{told} So it is not known what answers there. If something does: server= says it "
            "(vllm, sglang, transformers, chat)"
        ) from error


def refuse_for_server(model: Any, local: Mapping[str, Any]) -> None:
    """Raise ValueError for what only a model of this process can have.

    Args:
        model: as of `evaluate`: the name on the server.
        local: arguments of `evaluate`, by name.
    """
    if not isinstance(model, str | Path):
        raise ValueError("base_url: give the model's name on the server, not a loaded model")
    for key, value in local.items():
        if value:
            why = (
                "which weights a server has is not known, so another model would get its answers"
                if key == "use_cache"
                else "the server has loaded its model already"
            )
            raise ValueError(f"{key} does not go with base_url: {why}. Leave it out")


def _tokenizer(given: Any) -> Any:
    if not isinstance(given, str | Path):
        return given
    try:
        return load_tokenizer(str(TINY if given == "tiny" else given), None)
    except OSError as error:
        raise OSError(f"{error}. tokenizer= names the served model's tokenizer") from error


def _longest(listed: Any, model: str, tokenizer: Any) -> int | None:
    """Tokens of a prompt and its answer: as the server says, or as the tokenizer does."""
    said = [card.get("max_model_len") for card in cards_in(listed) if card.get("id") == model]
    longest = next(iter(said), None) or getattr(tokenizer, "model_max_length", None)
    return longest if isinstance(longest, int) and 0 < longest < _UNKNOWN else None


def _check_tokens(lm: ServedLM, ask: Ask, model: str) -> None:
    """Raise ValueError if the server says that its tokenizer makes other tokens."""
    try:
        body = {"model": model, "prompt": _SAMPLE, "add_special_tokens": False}
        theirs = list(ask("POST", "/tokenize", body)["tokens"])
    except (ServerError, KeyError, TypeError):
        return  # not every server has it
    if theirs != (ours := lm.tok_encode(_SAMPLE, add_special_tokens=False)):
        raise ValueError(
            f"the server's tokenizer makes {len(theirs)} tokens of {_SAMPLE!r}, and this one other "
            f"{len(ours)}: tokenizer= names the served model's tokenizer"
        )
