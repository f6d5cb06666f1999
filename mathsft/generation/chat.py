"""Ask a model a question, from Python or in a terminal."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import TextStreamer

from mathsft.checks import AT_LEAST_0, SHARE, at_least, check_number, check_numbers
from mathsft.data.prompts import sft_prompt
from mathsft.generation.rollouts import uniform
from mathsft.models.attention import position_limit
from mathsft.models.chat_template import Conversation
from mathsft.models.choosing import Choose, Greedy, Sampler
from mathsft.models.encoding import prompt_ids
from mathsft.models.greedy import written_tokens
from mathsft.models.merging import merged_for_reading
from mathsft.models.modes import evaluating
from mathsft.models.sharding import check_not_sharded
from mathsft.models.tuned import load_tuned
from mathsft.processes import say

Form = Literal["auto", "chat", "question"]
History = Sequence[tuple[str, str]]


def ask(
    model: Any,
    tokenizer: Any,
    question: str,
    *,
    system: str | None = None,
    history: History = (),
    form: Form = "auto",
    max_new_tokens: int = 256,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    show: Callable[[str], object] | None = None,
) -> str:
    """Ask a model one question, and return its answer as text without special tokens.

    The answer is that of `generate` for the same prompt, seed and temperature.

    Args:
        model: a causal language model, with or without an adapter.
        tokenizer: the model's tokenizer.
        question: the user's words.
        system: a system prompt. It needs a chat template.
        history: earlier questions with their answers, the oldest first. It needs a chat template.
        form: how the model is asked. "chat" is the tokenizer's chat template, "question" the
            format that the lessons train (`sft_prompt`). "auto" takes the template if there is
            one. Base models such as Qwen2.5 bring a template that they were not trained with:
            after training on problems, "question" is right for them.
        max_new_tokens: an answer that has not stopped after this many tokens is cut.
        temperature: 0 takes the likeliest token each time; otherwise as in `generate`.
        top_p: as in `generate`.
        seed: decides a sampled answer.
        show: is called with each new piece of the answer while it is written.

    Raises ValueError for an empty question, a system prompt or a history without a template, and
    a prompt that leaves the model no room for ``max_new_tokens``.
    """
    if not question.strip():
        raise ValueError("the question is empty: write one")
    check_number("temperature", temperature, AT_LEAST_0)
    check_number("top_p", top_p, SHARE)
    check_number("seed", seed, at_least(0))
    check_numbers({"max_new_tokens": max_new_tokens})
    check_not_sharded(model)
    ids = _prompt(tokenizer, question, system=system, history=history, form=form)
    choose: Choose
    if temperature == 0:
        choose = Greedy((1, max_new_tokens), device=model.device)
    else:
        draws = torch.tensor(uniform(max_new_tokens, seed, 0, 0)[None], device=model.device)
        choose = Sampler(draws, temperature=temperature, top_p=top_p)
    streamer = None
    if show is not None:
        streamer = _Pieces(tokenizer, show)
        choose = _streamed(choose, streamer)
    how: dict[str, Any] = {"max_new_tokens": max_new_tokens, "names": ["the question"]}
    with evaluating(model), merged_for_reading(model):
        (written,) = written_tokens(model, tokenizer, [ids], choose=choose, **how)
    if streamer is not None:
        streamer.end()
    return str(tokenizer.decode(written, skip_special_tokens=True))


def chat(
    model: str | Path = "tiny",
    *,
    peft: str | Path | None = None,
    system: str | None = None,
    form: Form = "auto",
    max_new_tokens: int = 256,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    quantize: bool = False,
    revision: str | None = None,
) -> None:
    """Ask a model questions in a terminal, until Ctrl-D; or one for each line of a pipe.

    With a chat template the model sees the conversation so far; ``/new`` begins another one. If
    it no longer fits into the model, the oldest turns are left out, and a line says so.

    Args:
        model: "tiny", a folder with a model or with an adapter (its base is then found), or a hub
            name.
        peft: an adapter to put on ``model``, a folder or a hub name.
        system: a system prompt. It needs a chat template.
        form: how the model is asked: "chat" is the chat template, "question" the format that the
            lessons train. "auto" takes the template if there is one.
        max_new_tokens: an answer that has not stopped after this many tokens is cut.
        temperature: 0 takes the likeliest token each time (greedy); 1 samples from the model.
        top_p: sample only from the likeliest tokens that together have this probability; 1: all.
        seed: decides sampled answers; each further question takes the next number.
        quantize: load the model in 4 bits.
        revision: branch, tag or commit of a model from the hub.

    Raises what `load_tuned` and `ask` raise.
    """
    with redirect_stdout(sys.stderr):  # a pipe's reader gets the answers alone
        loaded, tokenizer = load_tuned(model, peft=peft, quantize=quantize, revision=revision)
    templated = _templated(tokenizer, form)
    _check_form(templated, system=system)
    asked: dict[str, Any] = {"system": system, "form": form, "max_new_tokens": max_new_tokens}
    asked |= {"temperature": temperature, "top_p": top_p, "show": _print}
    history: list[tuple[str, str]] = []
    how = "chat template" if templated else "the lessons' question format"
    for number, question in enumerate(_questions(f"{model}, {how}; Ctrl-D ends")):
        if question == "/new":
            history = []
            continue
        _shorten(history, loaded, tokenizer, question, asked)
        answer = ask(loaded, tokenizer, question, history=history, seed=seed + number, **asked)
        _print("\n")
        if templated:
            history.append((question, answer))


def _questions(title: str) -> Iterator[str]:
    """The lines of a terminal, with the line editing and history of `readline`; or of a pipe."""
    terminal = sys.stdin.isatty()
    if terminal:
        with suppress(ImportError):  # Windows has none; its terminal edits lines itself
            import readline  # noqa: F401  (its import is what changes `input`)
        say(title, to=sys.stderr)
    while True:
        try:
            line = input("> " if terminal else "")
        except EOFError:
            if terminal:
                say("", to=sys.stderr)
            return
        if line.strip():
            yield line.strip()


def _prompt(
    tokenizer: Any, question: str, *, system: str | None, history: History, form: Form
) -> list[int]:
    """The token ids that the model continues with its answer."""
    templated = _templated(tokenizer, form)
    _check_form(templated, system=system, history=history)
    if not templated:
        return prompt_ids(tokenizer, [sft_prompt(question)])[0]
    turns = [{"role": "system", "content": system}] if system is not None else []
    for before, answer in history:
        turns += [{"role": "user", "content": before}, {"role": "assistant", "content": answer}]
    turns.append({"role": "user", "content": question})
    text = Conversation(turns, [False] * len(turns)).rendered(tokenizer)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _templated(tokenizer: Any, form: Form) -> bool:
    if form not in ("auto", "chat", "question"):
        raise ValueError(f"form={form!r}: give auto, chat or question")
    there = bool(getattr(tokenizer, "chat_template", None))
    if form == "chat" and not there:
        raise ValueError("form chat: the tokenizer has no chat template: give form question")
    return there and form != "question"


def _check_form(templated: bool, *, system: str | None, history: History = ()) -> None:
    if not templated and (system is not None or history):
        what = "a system prompt" if system is not None else "earlier turns"
        raise ValueError(
            f"the model is asked without a chat template, so {what} cannot be given: leave it out, "
            "or put all into the question"
        )


def _shorten(
    history: list[tuple[str, str]], model: Any, tokenizer: Any, question: str, asked: dict[str, Any]
) -> None:
    """Leave out the oldest turns until the prompt and an answer fit into the model."""
    limit = position_limit(model.config)
    form = {key: asked[key] for key in ("system", "form")}
    left_out = 0
    while limit is not None and history:
        ids = _prompt(tokenizer, question, history=history, **form)
        if len(ids) + asked["max_new_tokens"] <= limit:
            break
        history.pop(0)
        left_out += 1
    if left_out:
        said = f"({left_out} of the earlier questions left out: the model holds {limit:,} tokens)"
        say(said, to=sys.stderr)


class _Pieces(TextStreamer):
    """Gives each finished piece of text to a function: transformers' streamer, without a print."""

    def __init__(self, tokenizer: Any, show: Callable[[str], object]) -> None:
        super().__init__(tokenizer, skip_special_tokens=True)
        self.show = show

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        if text:
            self.show(text)


def _streamed(choose: Choose, streamer: TextStreamer) -> Choose:
    """As ``choose``, and tells the streamer each token of the one answer."""

    def told(logits: Tensor, answers: Tensor, step: Tensor | int) -> Tensor:
        token = choose(logits, answers, step)
        streamer.put(token.cpu())
        return token

    return told


def _print(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
