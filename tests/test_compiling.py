"""Compiled decoder layers: what a training run says, computes and leaves behind."""

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import TrainerCallback

from mathsft.data.problems import read_problems
from mathsft.models.forest import TokenForest
from mathsft.models.loading import load_model
from mathsft.models.logprobs import last_hidden, sequence_logprobs
from mathsft.objectives.preference import DPO
from mathsft.training import compiling
from mathsft.training.make import make_trainer, multiple_choice_trainer, sft_trainer

WORKED = read_problems("tiny-gsm", limit=30)[0]
CHOICES = read_problems("tiny-mathqa", limit=30)[0]


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers are traced and split as for inductor, but not made into kernels, which is slow."""
    monkeypatch.setattr(compiling, "BACKEND", "aot_eager")


def trainer(folder: Path, kind: str = "sft", **settings: Any) -> Any:
    lora = {"r": 4, "lora_dropout": 0.0, **settings.pop("lora", {})}
    model, tokenizer = load_model(
        settings.pop("base"), quantize=settings.pop("quantize", False), lora=lora, device="cpu"
    )
    arguments = {
        "output_dir": folder, "max_steps": 3, "logging_steps": 1, "max_length": 256,
        "per_device_train_batch_size": 2, "disable_tqdm": True, **settings,
    }  # fmt: skip
    if kind == "choices":
        return multiple_choice_trainer(model, tokenizer, CHOICES, **arguments)
    if kind == "dpo":
        pairs = {
            "prompt": [f"Question: {question}" for question in WORKED["question"]],
            "chosen": WORKED["solution"],
            "rejected": ["I do not know." for _ in WORKED["question"]],
        }
        return make_trainer(model, tokenizer, Dataset.from_dict(pairs), DPO(), **arguments)
    return sft_trainer(model, tokenizer, WORKED, **arguments)


def losses(run: Any) -> list[float]:
    run.train()
    return [entry["loss"] for entry in run.state.log_history if "loss" in entry]


def test_on_a_cpu_nothing_is_compiled_unless_asked(
    small_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trainer(tmp_path, base=small_model_dir)
    run.train()
    assert "compile" not in capsys.readouterr().out


@pytest.mark.parametrize("asked", ["yes", None, 3])
def test_another_setting_is_refused(small_model_dir: Path, tmp_path: Path, asked: Any) -> None:
    with pytest.raises(ValueError, match=r"unknown compile .*known are auto, true, false"):
        trainer(tmp_path, base=small_model_dir, compile=asked)


def test_a_short_run_does_not_compile_by_itself(
    small_model_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(compiling, "by_itself", lambda device: True)
    trainer(tmp_path, base=small_model_dir).train()
    said = capsys.readouterr().out
    assert "compile: off, because it pays from about 500 passes on and this run has 3" in said


def test_without_a_compiler_a_line_says_so_and_training_goes_on(
    small_model_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def broken(graph: Any, inputs: Any) -> Any:
        raise RuntimeError("Cannot find a working triton installation")

    monkeypatch.setattr(compiling, "BACKEND", broken)
    compiled = losses(trainer(tmp_path / "a", base=small_model_dir, compile=True))
    said = capsys.readouterr().out
    assert "compile: off, because the layers could not be compiled" in said
    assert "triton" in said
    plain = losses(trainer(tmp_path / "b", base=small_model_dir, compile=False))
    assert compiled == pytest.approx(plain, rel=1e-5)


@pytest.mark.parametrize("lengths", [(64, 9), (70, 200, 3)])
def test_padded_rows_have_the_same_scores(small_model_dir: Path, lengths: tuple[int, ...]) -> None:
    model, _ = load_model(small_model_dir, device="cpu")
    texts = [[(7 * n + length) % 90 + 5 for n in range(length)] for length in lengths]
    chains = [{"input_ids": ids, "labels": ids} for ids in texts]
    batch = TokenForest(chains, rows=[[n] for n in range(len(texts))]).tensors(pad_token_id=0)
    wider = compiling.padded(batch)
    assert wider["input_ids"].shape[1] % compiling.ROW_MULTIPLE == 0
    with torch.no_grad():
        scores, padded = (sequence_logprobs(model.eval(), each).sum for each in (batch, wider))
        hidden, same = (last_hidden(model, each)[0] for each in (batch, wider))
    assert torch.allclose(padded, scores, rtol=1e-5)
    assert torch.allclose(hidden, same, atol=1e-5)


@pytest.mark.slow
@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("sft", {"bf16": True}),
        ("sft", {"gradient_checkpointing": True, "quantize": True}),
        ("choices", {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 8}),
        ("dpo", {}),
    ],
)
def test_losses_are_those_of_plain_layers(
    small_model_dir: Path,
    tmp_path: Path,
    kind: str,
    settings: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    quiet = {"learning_rate": 1e-5, "base": small_model_dir, **settings}
    run = trainer(tmp_path / "a", kind, compile=True, **quiet)
    compiled = losses(run)
    assert "decoder layers" in (said := capsys.readouterr().out)
    assert "compile: ready after" in said
    assert all("forward" not in vars(module) for module in run.model.modules())
    batch = next(iter(run.get_train_dataloader()))
    assert run.shaped(batch)["input_ids"].shape[1] % 64 == 0
    plain = losses(trainer(tmp_path / "b", kind, **quiet))
    assert compiled == pytest.approx(plain, rel=1e-3 if "bf16" in settings else 1e-5)


@pytest.mark.slow
def test_a_stopped_run_ends_as_one_that_was_not(
    small_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiling, "BACKEND", "eager")  # it is about state, not about kernels

    class Stop(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == 2:
                raise KeyboardInterrupt

    settings = {
        "compile": True, "save_strategy": "steps", "save_steps": 2, "max_steps": 4,
        "lora": {"lora_dropout": 0.1}, "base": small_model_dir,
    }  # fmt: skip
    whole = trainer(tmp_path / "whole", **settings)
    whole.train()
    stopped = trainer(tmp_path / "parts", callbacks=[Stop()], **settings)
    with pytest.raises(KeyboardInterrupt):
        stopped.train()
    resumed = trainer(tmp_path / "parts", **settings)
    resumed.train(resume_from_checkpoint=True)
    for (name, one), other in zip(
        whole.model.named_parameters(), resumed.model.parameters(), strict=True
    ):
        assert torch.equal(one, other), name


@pytest.mark.slow
def test_inductors_kernels_give_the_same_loss_on_batches_of_all_shapes(
    small_model_dir: Path, tmp_path: Path
) -> None:
    """Losses at the same weights; no shape of the first fifty batches needs new kernels."""
    run = trainer(
        tmp_path, "choices", base=small_model_dir, compile=True, num_train_epochs=9, max_steps=-1
    )
    run.model.train()
    layers = [module for module in run.model.modules() if compiling._is_layer(module)]
    batches = [batch for _ in range(4) for batch in run.get_train_dataloader()][:50]
    batches = [compiling.padded(batch) for batch in batches]
    shapes = {tuple(batch["input_ids"].shape) for batch in batches}
    assert len(shapes) > 2
    graphs = []
    for batch in batches:
        plain = run.loss_of(batch, wrapped=run.model).total
        with compiling.compiled(layers):
            loss = run.loss_of(batch, wrapped=run.model).total
            loss.backward()
        assert float(loss) == pytest.approx(float(plain), rel=1e-5)
        graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    assert graphs[4] == graphs[-1], f"recompiled after the fifth batch: {graphs}"
