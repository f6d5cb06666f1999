"""Callbacks during training: sample answers and early stopping.

If a model's answers never end, a falling loss does not show it; `show_samples` does.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from transformers import EarlyStoppingCallback, TrainerCallback

from mathsft.checks import check_numbers
from mathsft.data.given import check_rows
from mathsft.data.schemas import UnusableRowError
from mathsft.files import own_file
from mathsft.models.encoding import stop_tokens
from mathsft.models.greedy import check_room, greedy_tokens
from mathsft.objectives.asked import asked
from mathsft.processes import say
from mathsft.training.arguments import reasons

_WIDTH = 300  # characters of a text that are printed


def early_stopping(
    settings: dict[str, Any], objective: str, *, evaluates: bool, best: str = "loss"
) -> list[EarlyStoppingCallback]:
    """Return transformers' callback if requested; remove its keys from ``settings``.

    It needs evaluations, which only the user can choose. It also needs the best checkpoint; the
    keys for that are added to ``settings``. The metric ``best`` on the test decides which one that
    is (the lowest loss, the highest reward) unless ``metric_for_best_model`` says otherwise. By
    default each evaluation saves a checkpoint.
    """
    patience = settings.pop("early_stopping_patience", None)
    threshold = settings.pop("early_stopping_threshold", None)
    if patience is None:
        if threshold is not None:
            raise ValueError(f"{objective}.early_stopping_threshold needs early_stopping_patience")
        return []
    if not evaluates:
        raise ValueError(
            f"{objective}.early_stopping_patience needs evaluations: give {objective}."
            "eval_strategy (steps, with eval_steps, or epoch)"
        )
    strategy = settings["eval_strategy"]
    if settings.get("save_strategy", "no") == "no":
        settings["save_strategy"] = strategy
        if strategy == "steps":
            every = settings.get("eval_steps") or settings.get("logging_steps", 10)
            settings["save_steps"] = every
    settings.setdefault("load_best_model_at_end", True)
    settings.setdefault("metric_for_best_model", best)
    if settings["metric_for_best_model"] == best != "loss":
        settings.setdefault("greater_is_better", True)
    settings.setdefault("restore_callback_states_from_checkpoint", True)  # the count so far
    say(
        f"early stopping: after {patience} evaluations without a better "
        f"{settings['metric_for_best_model']} on the test"
        + "; the best checkpoint is kept"
        * settings["load_best_model_at_end"]
    )
    return [EarlyStoppingCallback(patience, threshold or 0.0)]


def show_samples(
    tokenizer: Any,
    problems: Iterable[Mapping[str, Any]],
    *,
    samples: int = 3,
    max_new_tokens: int = 128,
) -> "SampleAnswers":
    """A callback for the trainers: after each evaluation the model answers a few problems.

    ``sft_trainer(…, eval_problems=test, eval_strategy="steps", eval_steps=50,
    callbacks=[show_samples(tokenizer, test)])``. The model answers the first ``samples`` of
    ``problems`` greedily, so two evaluations differ only by the training between them. It
    reads a problem as its training prompt, a conversation up to its last trained assistant turn
    (without it), and a prompt unchanged. The expected answer of a pair is the better one, of a
    group the best. Question, answer and expected answer are printed with the step, shortened,
    and added in full to ``samples.jsonl`` in the trainer's ``output_dir``. There ``stopped``
    says whether the answer ended within ``max_new_tokens``. Conversations that the chat template
    refuses are skipped; a line counts them.

    Training ends with the same weights, bit for bit, with and without this callback. If there are
    several processes, all generate, since a model may be spread over them; process 0 writes.

    Args:
        samples: how many problems are answered: the first ones.
        max_new_tokens: the most tokens of an answer; a longer one is cut.

    Raises ValueError if there is no problem that can be answered, or ``samples`` or
    ``max_new_tokens`` is below 1; when the trainer is made, for a prompt that leaves the model no
    room to answer; for a conversation, if the tokenizer has no chat template.
    """
    check_numbers({"samples": samples, "max_new_tokens": max_new_tokens}, where="show_samples: ")
    check_rows(problems, name="show_samples")
    asked_for: list[dict[str, Any]] = []
    passed_over: Counter[str] = Counter()
    for place, row in enumerate(problems):
        try:
            asked_for.append(asked(row, tokenizer, where=f"show_samples: row {place}"))
        except UnusableRowError as reason:
            passed_over[str(reason)] += 1
        if len(asked_for) == samples:
            break
    if not asked_for:
        raise ValueError(
            f"show_samples: there is no problem to answer (skipped: {reasons(passed_over)})"
        )
    if passed_over:
        say(f"show_samples: rows skipped: {reasons(passed_over)}")
    return SampleAnswers(tokenizer, asked_for, max_new_tokens=max_new_tokens)


class SampleAnswers(TrainerCallback):
    """Generates, prints and records sample answers; made by `show_samples`."""

    def __init__(
        self, tokenizer: Any, samples: list[dict[str, Any]], *, max_new_tokens: int
    ) -> None:
        self._tokenizer = tokenizer
        self._samples = samples
        self._max_new_tokens = max_new_tokens

    def on_init_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Refuse prompts that leave no room for an answer, before the first evaluation."""
        for sample in self._samples:
            tokens = len(sample["input_ids"])
            check_room(kwargs["model"], tokens, self._max_new_tokens, name=_name(sample))

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        written = [self._write(kwargs["model"], sample) for sample in self._samples]
        if not state.is_world_process_zero:
            return
        path = Path(args.output_dir) / "samples.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        with own_file(path).open("a", encoding="utf-8") as file:
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
                cut = "" if stopped else f" (cut off after {self._max_new_tokens} tokens)"
                say(f"step {state.global_step:,}, sample {index + 1}{cut}")
                for what in ("question", "written", "wanted"):
                    text = " ".join(record[what].split())
                    say(f"  {what:<8}  {text[:_WIDTH]}{' …' * (len(text) > _WIDTH)}")

    def _write(self, model: Any, sample: dict[str, Any]) -> tuple[str, bool]:
        """What the model writes, and whether it ended on its own."""
        ((*new, last),) = greedy_tokens(
            model,
            self._tokenizer,
            [sample["input_ids"]],
            max_new_tokens=self._max_new_tokens,
            names=[_name(sample)],
        )
        text = self._tokenizer.decode([*new, last], skip_special_tokens=True)
        return text, last in stop_tokens(model, self._tokenizer)


def _name(sample: Mapping[str, Any]) -> str:
    return f"show_samples: {sample['question']!r:.60}"
