"""Ask a server how likely a given text is: vLLM and SGLang say it for the tokens of a prompt.

The text is sent as token ids, and the answer is the log-probability of each of its tokens.

- vLLM: ``POST /v1/completions`` with ``echo`` and ``logprobs``.
- SGLang: its own ``POST /generate`` with ``input_ids`` and ``return_logprob``.
- ``transformers serve``, and servers of chats, do not say it.
"""

import math
from collections.abc import Sequence
from typing import Any

from mathsft.generation.server_forms import Ask, ServerError

Score = tuple[float, bool]  # log-likelihood in nats, and whether greedy decoding would write it
Token = tuple[float, bool]  # of a token: its log-probability, and whether it is the likeliest


def continuation_score(
    ask: Ask, kind: str, context: Sequence[int], continuation: Sequence[int], *, model: str
) -> Score:
    """The log-likelihood of a continuation, and whether greedy decoding would write it.

    Args:
        ask: sends a request (`mathsft.generation.server_forms.connected`).
        kind: "vllm" or "sglang".
        context: the tokens before it, at least one.
        continuation: the tokens that are scored.
        model: the model's name on the server.

    Raises ServerError for an answer without a finite log-probability for each token.
    """
    ids = [*context, *continuation]
    read = {"vllm": _from_vllm, "sglang": _from_sglang}[kind]
    try:
        found = read(ask, ids, model)[len(context) : len(ids)]
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ServerError(
            f"the server gave no log-probabilities of a prompt's tokens ({type(error).__name__}: "
            f"{error}), which this task needs. vLLM gives them by echo and logprobs, SGLang by its "
            "/generate; other servers can only write (tasks with generated answers)"
        ) from error
    if len(found) != len(continuation) or not all(math.isfinite(value) for value, _ in found):
        raise ServerError(
            f"the server gave {len(found)} log-probabilities for {len(continuation)} tokens "
            f"({[value for value, _ in found]}): expected a finite one for each. Is it a server "
            "of the kind that it says (server=)?"
        )
    return sum(value for value, _ in found), all(likeliest for _, likeliest in found)


def _from_vllm(ask: Ask, ids: list[int], model: str) -> list[Token]:
    # One token is generated, because some versions refuse none; it comes last and is not read.
    body = {
        "model": model, "prompt": ids, "max_tokens": 1, "temperature": 0.0, "echo": True,
        "logprobs": 1,
    }  # fmt: skip
    (choice,) = ask("POST", "/v1/completions", body)["choices"]
    about = choice["logprobs"]
    values, best = about["token_logprobs"], about["top_logprobs"]
    _check_length(values, ids)
    pairs = zip(values[1:], best[1:], strict=True)  # nothing comes before the first token
    return [(math.nan, False), *((float(v), v >= max(top.values())) for v, top in pairs)]


def _from_sglang(ask: Ask, ids: list[int], model: str) -> list[Token]:
    body = {
        "input_ids": [ids],
        "sampling_params": [{"max_new_tokens": 1, "temperature": 0.0}],
        "return_logprob": True, "logprob_start_len": 0, "top_logprobs_num": 1,
    }  # fmt: skip
    (answer,) = ask("POST", "/generate", body)
    about = answer["meta_info"]
    values, best = about["input_token_logprobs"], about["input_top_logprobs"]
    _check_length(values, ids)
    pairs = zip(values[1:], best[1:], strict=True)
    return [(math.nan, False), *((float(v), v >= top[0][0]) for (v, *_), top in pairs)]


def _check_length(values: Sequence[Any], ids: Sequence[int]) -> None:
    if len(values) < len(ids):
        raise ValueError(f"{len(values)} for {len(ids)} tokens")
