"""What the model writes as it is trained: a loss does not show that answers never end."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from mathsft.data.chat import asked
from mathsft.data.prompts import sft_completion, sft_prompt
from mathsft.data.schemas import UnusableRowError
from mathsft.models.modes import evaluating
from mathsft.processes import say
from mathsft.training.arguments import reasons
from mathsft.training.conversations import render

_WIDTH = 300  # characters of a text that are printed


def show_samples(
    tokenizer: Any,
    problems: Iterable[Mapping[str, Any]],
    *,
    samples: int = 3,
    max_new_tokens: int = 128,
) -> "SampleAnswers":
    """A callback for the trainers: after each evaluation the model answers a few problems.

    ``sft_trainer(…, eval_problems=test, eval_strategy="steps", eval_steps=50,
    callbacks=[show_samples(tokenizer, test)])``. The first ``samples`` of ``problems`` are
    answered, greedily, so that two evaluations differ by the training alone: a problem after
    the prompt of its training, a conversation from before its last assistant turn on, a prompt
    as it is. Question, answer and what was wanted are printed with the step, shortened, and
    added to ``samples.jsonl`` in the trainer's ``output_dir`` in full, with ``stopped``: whether
    the answer came to its end within ``max_new_tokens``. Conversations that the chat template
    refuses are passed over; a line counts them.

    The weights that training ends with are the same bit for bit with and without it. In several
    processes all of them generate, since a model may be spread over them; process 0 writes.

    Args:
        samples: how many problems are answered, the first ones.
        max_new_tokens: tokens after which an answer that has not come to its end is cut.

    Raises ValueError where there is no problem that can be answered, or ``samples`` or
    ``max_new_tokens`` is below 1; for a conversation where the tokenizer has no chat template.
    """
    if samples < 1 or max_new_tokens < 1:
        raise ValueError(
            f"show_samples: samples={samples}, max_new_tokens={max_new_tokens}: give 1 or more"
        )
    asked_for: list[dict[str, Any]] = []
    passed_over: Counter[str] = Counter()
    for row in problems:
        try:
            asked_for.append(_sample(row, tokenizer))
        except UnusableRowError as reason:
            passed_over[str(reason)] += 1
        if len(asked_for) == samples:
            break
    if not asked_for:
        raise ValueError(
            f"show_samples: there is no problem to answer (passed over: {reasons(passed_over)})"
        )
    if passed_over:
        say(f"show_samples: rows passed over: {reasons(passed_over)}")
    return SampleAnswers(tokenizer, asked_for, max_new_tokens=max_new_tokens)


class SampleAnswers(TrainerCallback):
    """Generates, prints and records; made by `show_samples`."""

    def __init__(
        self, tokenizer: Any, samples: list[dict[str, Any]], *, max_new_tokens: int
    ) -> None:
        self._tokenizer = tokenizer
        self._samples = samples
        self._max_new_tokens = max_new_tokens

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        written = [self._write(kwargs["model"], sample["input_ids"]) for sample in self._samples]
        if not state.is_world_process_zero:
            return
        path = Path(args.output_dir) / "samples.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            for index, (sample, (answer, stopped)) in enumerate(
                zip(self._samples, written, strict=True)
            ):
                record: dict[str, Any] = {
                    "step": state.global_step,
                    "sample": index,
                    "question": sample["question"],
                    "written": answer,
                    "wanted": sample["wanted"],
                    "stopped": stopped,
                }
                file.write(json.dumps(record, ensure_ascii=False) + "\n")
                cut = "" if stopped else f" (not at its end after {self._max_new_tokens} tokens)"
                say(f"step {state.global_step:,}, sample {index + 1}{cut}")
                for what in ("question", "written", "wanted"):
                    text = " ".join(record[what].split())
                    say(f"  {what:<8}  {text[:_WIDTH]}{' …' * (len(text) > _WIDTH)}")

    @torch.no_grad()
    def _write(self, model: Any, input_ids: list[int]) -> tuple[str, bool]:
        """What the model goes on with, and whether it came to an end by itself."""
        ids = torch.tensor([input_ids], device=model.device)
        stop = model.generation_config.eos_token_id
        if stop is None:
            stop = self._tokenizer.eos_token_id
        devices = [model.device] if model.device.type == "cuda" else []
        with evaluating(model), torch.random.fork_rng(devices=devices):
            found = model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=self._max_new_tokens,
                do_sample=False,
                use_cache=True,
                eos_token_id=stop,
                pad_token_id=self._tokenizer.pad_token_id,
            )
        new = found[0, len(input_ids) :].tolist()
        stops = [] if stop is None else torch.tensor(stop).flatten().tolist()
        return self._tokenizer.decode(new, skip_special_tokens=True), new[-1] in stops


def _sample(row: Mapping[str, Any], tokenizer: Any) -> dict[str, Any]:
    """A row's prompt as tokens, with its question and what is wanted as text."""
    if row.get("messages") is not None:
        messages = row["messages"]
        turns = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
        if not turns:
            raise UnusableRowError("without an assistant turn")
        last = turns[-1]
        text, wanted = render(messages[:last], tokenizer), messages[last]["content"]
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        question = asked({"messages": messages[:last]})[-1]
    elif row.get("prompt") is not None:
        question, wanted = row["prompt"], row["completion"]
        ids = tokenizer(question)["input_ids"]
    else:
        question = row["question"]
        wanted = sft_completion(row["solution"], row["answer"])
        ids = tokenizer(sft_prompt(question))["input_ids"]
    return {"input_ids": list(ids), "question": question, "wanted": wanted}
