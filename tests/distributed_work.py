"""The jobs that test_distributed.py runs in one and in several processes, by public functions.

python -m torch.distributed.run … distributed_work.py FOLDER PROCESSES JOB…
"""

import json
import os
import signal
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from datasets import Dataset
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback

from mathsft import (
    DPO,
    GPO,
    GRPO,
    KTO,
    ORPO,
    SFT,
    SMPO,
    Distillation,
    MultipleChoice,
    add_adapter,
    evaluate,
    load_model,
    load_problems,
    make_trainer,
    persist,
    rollout_trainer,
    save_adapter,
    save_model,
    worked_answers,
)
from mathsft.training.runs import rows_hash

RANK, WORLD = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
TOGETHER = 4  # rows per batch, over all processes; with 13 rows one process has none in the last
# SMPO clips at quantiles, and KTO subtracts a mean, of a batch's tokens in all processes.
OBJECTIVES = {
    "sft": SFT(packing=False),
    "choices": MultipleChoice(),
    "dpo": DPO(),
    "orpo": ORPO(),
    "smpo": SMPO(min_log_prob=-20.0, lower_clip_percentile=0.3, upper_clip_percentile=0.9),
    "kto": KTO(),
    "grpo": GRPO(loss_type="dapo", beta=0.1),
    "gpo": GPO(beta=0.1),
    "distillation": Distillation(packing=False, ce_weight=0.5, temperature=2.0),
}
# Objective and steps of accumulation. What a batch's loss is divided by does not depend on the
# objective, so two of them show that it holds without accumulation too.
TRAININGS = [*((name, 2) for name in OBJECTIVES), ("sft", 1), ("choices", 1)]
SHARDED = ("sft", "choices", "dpo")  # sharding does not depend on what the loss compares
GSM, MATHQA = load_problems("tiny-gsm", limit=40), load_problems("tiny-mathqa", limit=40)
# Chosen: the solution of the problem. Rejected: the solution of another problem.
PAIRS = Dataset.from_list(
    [
        {"prompt": row["question"], "chosen": row["solution"], "rejected": other["solution"]}
        for row, other in pairwise(GSM)
    ]
)
ANSWERS = Dataset.from_list(
    [
        {"prompt": row["prompt"], "completion": row[side], "label": side == "chosen"}
        for row, side in zip(PAIRS, ["chosen", "rejected", "chosen"] * 13, strict=True)
    ]
)

GROUPS = Dataset.from_list(
    [
        {
            "prompt": row["prompt"],
            "completions": [row["chosen"], row["rejected"], row["chosen"][:20]],
            "rewards": [1.0, 0.0, float(n % 2)],
        }
        for n, row in enumerate(PAIRS)
    ]
)

# The teacher reads another prompt, so it has its own batch, with its own fillers.
TAUGHT = Dataset.from_list(
    [
        {"prompt": row["prompt"], "completion": row["chosen"], "teacher_prompt": "Solve it.\n\n"}
        for row in PAIRS
    ]
)
ROWS = {
    "sft": GSM, "choices": MATHQA, "kto": ANSWERS, "grpo": GROUPS, "gpo": GROUPS,
    "distillation": TAUGHT,
}  # fmt: skip


def trainer_of(objective: str, folder: Path, *, dropout: float = 0.0, **more: Any) -> Any:
    model, tokenizer = load_model("tiny", device="cpu")
    if more.pop("adapter", True):
        model = add_adapter(model, r=4, lora_dropout=dropout)
    else:
        model.requires_grad_(True)
    settings = {
        "output_dir": folder / "run", "per_device_train_batch_size": TOGETHER // WORLD,
        "learning_rate": 1e-3, "logging_steps": 1, "disable_tqdm": True, "num_train_epochs": 2,
        "max_length": 256, **more,
    }  # fmt: skip
    rows = ROWS.get(objective, PAIRS)
    held_out = rows.select(range(20, 27))
    return make_trainer(
        model,
        tokenizer,
        rows.select(range(13)),
        OBJECTIVES[objective],
        eval_rows=held_out,
        **settings,
    )


def write(path: Path, content: Any) -> None:
    """Write one file per process; the tests compare them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_name(f"{path.name}.{RANK}.json").write_text(json.dumps(content))


def train(folder: Path, objective: str, steps: int) -> None:
    where = folder / f"{objective}-{steps}"
    trainer = trainer_of(objective, where, gradient_accumulation_steps=steps)
    before = trainer.evaluate()
    trainer.train()
    write(where / "log", [before, *trainer.state.log_history, trainer.evaluate()])
    save_adapter(trainer.model, where / "adapter")


def train_all(folder: Path) -> None:
    for objective, steps in TRAININGS:
        train(folder, objective, steps)


def full_dpo(folder: Path) -> None:
    """Each pair keeps its log-probabilities from before training; in the last batch, one process
    has only fillers."""
    where = folder / "full-dpo"
    trainer = trainer_of("dpo", where, adapter=False, learning_rate=1e-4)
    before = trainer.evaluate()
    trainer.train()
    write(where / "log", [before, *trainer.state.log_history, trainer.evaluate()])


def even(completions: list[str], **columns: Any) -> list[float]:
    return [float(len(text) % 2) for text in completions]


def learner(folder: Path, **more: Any) -> Any:
    """A trainer on the model's own attempts: four prompts a step over all processes."""
    model, tokenizer = load_model("tiny", device="cpu")
    settings = {
        "output_dir": folder, "per_device_train_batch_size": TOGETHER // WORLD, "max_steps": 4,
        "learning_rate": 1e-3, "logging_steps": 1, "disable_tqdm": True, "num_generations": 4,
        "max_new_tokens": 12, "num_iterations": 2, "resample": 1, **more,
    }  # fmt: skip
    objective = GRPO(scale_rewards="batch", beta=0.1)
    return rollout_trainer(
        add_adapter(model, r=4), tokenizer, GSM.select(range(9)), objective, even, **settings
    )


def learn(folder: Path) -> None:
    """Learn from attempts; stop within a rollout's two steps, and resume."""
    whole = learner(folder / "attempts" / "whole")
    whole.train()
    asked = [[group.row, group.rewards] for group in whole.last_attempts]
    write(folder / "attempts" / "log", [asked, *whole.state.log_history])
    save_adapter(whole.model, folder / "attempts" / "adapter")
    saving = {"save_strategy": "steps", "save_steps": 1}
    learner(folder / "attempts" / "run", callbacks=[At(3, stop)], **saving).train()
    again = learner(folder / "attempts" / "run", **saving)
    again.train(resume_from_checkpoint=True)
    save_adapter(again.model, folder / "attempts" / "resumed")


def refuse_to_judge(folder: Path) -> None:
    """A reward that raises in one process alone."""

    def reward(completions: list[str], **columns: Any) -> list[float]:
        if RANK == 1:
            raise RuntimeError("no judge here")
        return even(completions)

    trainer = learner(folder / "unjudged")
    trainer.reward = reward
    try:
        trainer.train()
    except Exception as error:
        write(folder / "unjudged", str(error))


def stop_amid(folder: Path) -> None:
    """Stop a run in the second epoch, and resume it with another trainer."""
    settings: dict[str, Any] = {"dropout": 0.1, "save_strategy": "steps", "save_steps": 1}
    whole = trainer_of("choices", folder / "whole", **settings)
    whole.train()
    save_adapter(whole.model, folder / "whole" / "adapter")
    trainer_of("choices", folder / "stopped", callbacks=[At(6, stop)], **settings).train()
    again = trainer_of("choices", folder / "stopped", **settings)
    again.train(resume_from_checkpoint=True)
    again.train(resume_from_checkpoint=True)  # the run has ended; every process must notice that
    save_adapter(again.model, folder / "stopped" / "adapter")


def diverge(folder: Path) -> None:
    """Train with a loss that is not finite in only one process."""
    trainer = trainer_of("sft", folder / "diverged", max_steps=1)
    if RANK == 1:
        trainer._finite.add(torch.tensor(torch.nan))
    try:
        trainer.train()
    except FloatingPointError as error:
        write(folder / "diverged", str(error))


def save_by_clock(folder: Path) -> None:
    """Save checkpoints when only the first process's clock says that one is due."""
    run = folder / "clock" / "run"
    saving = persist(run, minutes=0 if RANK == 0 else 60, keep=9)
    trainer_of("sft", folder / "clock", max_steps=3, callbacks=[saving]).train()


def tokenise(folder: Path) -> None:
    """Write how many rows from disk this process tokenised, and the hash of the result."""
    seen, groups = [], SFT.groups
    SFT.groups = lambda self, rows, *a, **n: seen.append(len(rows)) or groups(self, rows, *a, **n)
    model, tokenizer = load_model("tiny", lora=True, device="cpu")
    rows = Dataset.load_from_disk(folder / "rows")
    trainer = make_trainer(model, tokenizer, rows, SFT(), output_dir=folder / "tokenise")
    write(folder / "tokenise" / "found", [sum(seen), rows_hash(trainer.train_dataset)])


class At(TrainerCallback):  # type: ignore[misc]
    """Calls a function after a step has ended and been saved."""

    def __init__(self, step: int, what: Any) -> None:
        self.step, self.what = step, what

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self.step:
            self.what(control)


def stop(control: Any) -> None:
    control.should_training_stop = True


def kill(_: Any) -> None:
    if RANK == 1:
        os.kill(os.getpid(), signal.SIGKILL)


def survive(folder: Path, *callbacks: Any) -> None:
    trainer = trainer_of(
        "sft", folder, dropout=0.1, save_strategy="steps", save_steps=1, callbacks=[*callbacks]
    )
    trainer.train(resume_from_checkpoint=True)
    save_adapter(trainer.model, folder / "adapter")


def scores(folder: Path) -> None:
    model, tokenizer = load_model("tiny", device="cpu")
    for shots in (0, 2):
        result = evaluate(
            model, "mathqa_tiny", tokenizer=tokenizer, name="tiny", limit=11, num_fewshot=shots,
            folder=folder / "results",
        )  # fmt: skip
        write(folder / f"scores-{shots}", vars(result))
    solved = worked_answers(model, tokenizer, GSM.select(range(7)), max_new_tokens=40)
    write(folder / "worked", solved)


def sharded(folder: Path) -> None:
    """Two steps with FSDP2 by accelerate's own code, which normally requires an accelerator."""
    settings: dict[str, Any] = {"max_steps": 2, "warmup_steps": 0, "optim": "sgd"}
    if WORLD > 1:
        let_accelerate_shard_on_cpu()
        settings |= {"fsdp": True, "fsdp_config": {
            "version": 2, "fsdp_version": 2, "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
            "transformer_layer_cls_to_wrap": ["Qwen2DecoderLayer"],
            "state_dict_type": "FULL_STATE_DICT", "cpu_ram_efficient_loading": False,
        }}  # fmt: skip
    for objective in SHARDED:
        for adapter in (True, False):
            where = folder / f"sharded-{objective}-{'adapter' if adapter else 'full'}"
            trainer = trainer_of(objective, where, adapter=adapter, **settings)
            trainer.train()
            weights = list(trainer.model.parameters())
            write(where / "log", {
                "steps": [
                    [row["loss"], row["grad_norm"]]
                    for row in trainer.state.log_history
                    if "loss" in row
                ],
                "sharded": all(isinstance(weight, DTensor) for weight in weights),
                "held": sum(getattr(w, "_local_tensor", w).numel() for w in weights),
                "all": sum(weight.numel() for weight in weights),
            })  # fmt: skip
            if adapter:
                save_adapter(trainer.model, where / "adapter")
            else:
                save_model(trainer.model, trainer.processing_class, where / "model")


def let_accelerate_shard_on_cpu() -> None:
    init = AcceleratorState.__init__

    def with_plugin(self: Any, *args: Any, fsdp_plugin: Any = None, **kwargs: Any) -> None:
        init(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
        if fsdp_plugin is not None and self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, fsdp_plugin

    AcceleratorState.__init__ = with_plugin


JOBS = {
    "train": train_all,
    "train-one": lambda folder: train(folder, "choices", 1),
    "stop": stop_amid,
    "diverge": diverge,
    "clock": save_by_clock,
    "tokenise": tokenise,
    "full-dpo": full_dpo,
    "attempts": learn,
    "unjudged": refuse_to_judge,
    "killed": lambda folder: survive(folder / "killed", At(3, kill)),
    "again": lambda folder: survive(folder / "killed"),
    "calm": lambda folder: survive(folder / "calm"),
    "scores": scores,
    "sharded": sharded,
}


def main() -> None:
    torch.set_num_threads(1)
    folder, processes, jobs = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    assert processes == WORLD, f"{WORLD} processes were started, not {processes}"
    for job in jobs:
        JOBS[job](folder)
    if WORLD > 1:
        assert torch.distributed.get_world_size() == processes
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
