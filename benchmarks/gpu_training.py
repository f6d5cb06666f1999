"""The sections of `gpu.py` that train: worked solutions, choices, with and without compilation."""

import inspect
import tempfile
from importlib.util import find_spec
from typing import Any

import torch
from gpu_bench import Bench, Measures, layer_weights, timed
from multiple_choice_rivals import vectorised
from packing_rivals import MAX_LENGTH, QUIET, trl_trainer

from mathsft.models.logprobs import sequence_logprobs
from mathsft.objectives.multiple_choice import MultipleChoice
from mathsft.training.batches import Collator
from mathsft.training.make import make_trainer, multiple_choice_trainer, sft_trainer
from mathsft.training.rows import training_rows

WARM, STEPS = 3, 10


def real_tokens(batch: Any) -> int:
    """Tokens of a batch without padding, ours or TRL's."""
    if "row_tokens" in batch:
        return int(batch["row_tokens"].sum())
    if "attention_mask" in batch:
        return int(batch["attention_mask"].sum())
    return int(batch["input_ids"].numel())


def told(bench: Bench, name: str, model: Any, found: dict[str, Any], unit: str) -> Measures:
    """The measures of a training; LoRA needs 4 operations for each weight and position."""
    yield f"{name}_{unit}_per_s", round(found["per_second"], 1)
    share = 4 * layer_weights(model) * found["positions_per_second"] / bench.rate
    yield f"{name}_share_of_matrix_rate", round(share, 4)
    for key in ("step_ms", "host_ms", "peak_gb"):
        yield f"{name}_{key}", round(found[key], 2)


def rows_for(bench: Bench, size: int) -> Any:
    """Problems for enough packed rows (a row holds about three)."""
    needed = size * (WARM + STEPS) * 5
    return bench.problems.select(range(min(needed, len(bench.problems))))


def _sft(bench: Bench, size: int, **settings: Any) -> tuple[Any, dict[str, Any]]:
    model = bench.adapted()
    with tempfile.TemporaryDirectory() as folder:
        trainer = sft_trainer(
            model, bench.tokenizer, rows_for(bench, size), output_dir=folder,
            max_length=MAX_LENGTH, per_device_train_batch_size=size, max_steps=WARM + STEPS,
            **QUIET, **settings,
        )  # fmt: skip
        return model, timed(bench, trainer, real_tokens, warm=WARM)


def sft(bench: Bench) -> Measures:
    """Packed rows of 512 tokens; TRL packed in both of its ways, and padded."""
    sizes = (1, 2) if bench.tiny else (16, 64)
    for size in sizes:
        yield from told(bench, f"ours_{size}_rows", *_sft(bench, size), "tokens")
    size = sizes[-1] // 4
    ways: dict[str, dict[str, Any]] = {
        # A row of each of its ways holds what ours holds, or three times fewer tokens (padded).
        "trl_packed": {"packing": True, "packing_strategy": "bfd"},
        "trl_wrapped": {"packing": True, "packing_strategy": "wrapped"},
        "trl_padded": {},
        "trl_padding_free": {"padding_free": True, "max_length": None},
    }
    fused = "adamw_torch_fused" if bench.device.type == "cuda" else "adamw_torch"
    for name, settings in ways.items():
        model = bench.adapted()
        rows = max(1, size if "packing" in settings else 3 * size)
        try:
            with tempfile.TemporaryDirectory() as folder:
                trainer = trl_trainer(
                    model, bench.tokenizer, rows_for(bench, rows), folder,
                    per_device_train_batch_size=rows, max_steps=WARM + STEPS,
                    **{"optim": fused, **bench.precision, **settings},
                )  # fmt: skip
                found = timed(bench, trainer, real_tokens, warm=WARM)
        except (ImportError, RuntimeError, ValueError) as error:  # its packing may want flash
            yield f"{name}_error", str(error).strip().splitlines()[0][:200]
            continue
        yield from told(bench, f"{name}_{rows}_rows", model, found, "tokens")


def choices(bench: Bench) -> Measures:
    """Whole questions with all choices: our trainer; and bare steps, ours and the padded batch."""
    sizes = (1, 2) if bench.tiny else (8, 32, 128)
    for size in sizes:
        model = bench.adapted()
        needed = min(size * (WARM + STEPS) * 2, len(bench.questions))
        with tempfile.TemporaryDirectory() as folder:
            trainer = multiple_choice_trainer(
                model, bench.tokenizer, bench.questions.select(range(needed)), output_dir=folder,
                per_device_train_batch_size=size, max_steps=WARM + STEPS, **QUIET,
            )  # fmt: skip
            found = timed(bench, trainer, lambda batch: len(batch["labels"]), warm=WARM)
        yield from told(bench, f"ours_{size}_questions", model, found, "questions")
    model, objective = bench.adapted().train(), MultipleChoice()
    collate = Collator(objective, pad_token_id=0)
    drawn = bench.questions.select(range(min(100, len(bench.questions))))
    rows = training_rows(drawn, bench.tokenizer, objective, name="mathqa")

    def forest(model: Any, questions: Any) -> None:
        batch = {k: v.to(bench.device) for k, v in collate(questions).items()}
        loss = objective.loss(sequence_logprobs(model, batch), batch)
        (loss.total / len(batch["labels"])).backward()

    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=2e-4, fused=bench.device.type == "cuda")
    for size in sizes[:2]:
        questions = [rows[n] for n in range(size)]
        for name, method in (("ours", forest), ("vectorised", vectorised)):

            def step(method: Any = method, questions: Any = questions) -> None:
                with bench.autocast():
                    method(model, questions)
                optimizer.step()
                optimizer.zero_grad()

            bench.clear()
            seconds, host = bench.seconds(step, rounds=1 if bench.tiny else 6)
            yield f"bare_{name}_{size}_questions_per_s", round(size / seconds, 1)
            yield f"bare_{name}_{size}_host_ms", round(1000 * host, 2)
            yield f"bare_{name}_{size}_peak_gb", round(bench.peak_gb(), 2)


def compiled(bench: Bench) -> Measures:
    """The same SFT step without and with compilation, if the trainer offers it."""
    if "compile" not in inspect.signature(make_trainer).parameters:
        yield "skipped", "make_trainer has no `compile`"
        return
    size = 1 if bench.tiny else 16
    for name, on in (("off", False), ("on", True)):
        model, found = _sft(bench, size, compile=on)
        yield from told(bench, name, model, found, "tokens")
        yield f"{name}_first_step_s", round(found["first_step_s"], 2)


def unsloth(bench: Bench) -> Measures:
    """TRL's trainer on unsloth's model, if installed. It changes transformers, so it is last."""
    if find_spec("unsloth") is None:
        yield "skipped", "unsloth is not installed"
        return
    from unsloth import FastLanguageModel

    size = 1 if bench.tiny else 16
    with tempfile.TemporaryDirectory() as folder:
        bench.base().save_pretrained(folder)
        bench.tokenizer.save_pretrained(folder)
        model, _ = FastLanguageModel.from_pretrained(
            folder, max_seq_length=MAX_LENGTH, dtype=bench.dtype, load_in_4bit=False
        )
        model = FastLanguageModel.get_peft_model(model, r=16, lora_alpha=32, lora_dropout=0)
        trainer = trl_trainer(
            model, bench.tokenizer, rows_for(bench, size), folder, packing=True,
            per_device_train_batch_size=size, max_steps=WARM + STEPS,
            **{"optim": "adamw_torch_fused", **bench.precision},
        )  # fmt: skip
        yield from told(
            bench, "trl", model, timed(bench, trainer, real_tokens, warm=WARM), "tokens"
        )
