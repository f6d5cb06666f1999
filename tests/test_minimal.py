"""The scripts in minimal/ run, with the losses and the gradients of the package."""

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from forked import run_script
from torch import Tensor

from mathsft.data.problems import load_problems
from mathsft.models.loading import load_model
from mathsft.objectives.distillation import Distillation
from mathsft.objectives.gpo import GPO
from mathsft.objectives.multiple_choice import MultipleChoice
from mathsft.objectives.preference import DPO
from mathsft.objectives.sft import SFT
from mathsft.training.make import make_trainer

MINIMAL = Path(__file__).parent.parent / "minimal"
SCRIPTS = sorted(path.stem for path in MINIMAL.glob("*.py"))


def script(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"minimal_{name}", MINIMAL / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def gradients(loss: Tensor, model: Any) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    ("name", "objective", "source"),
    [
        ("sft", SFT(packing=True), "tiny-gsm"),
        ("sft", SFT(packing=False), "tiny-gsm"),
        ("multiple_choice", MultipleChoice(temperature=4.0), "tiny-mathqa"),
        ("dpo", DPO(beta=0.1), "tiny-gsm"),
        ("gpo", GPO(), "tiny-gsm"),
        ("distillation", Distillation(), "tiny-gsm"),
    ],
    ids=["sft, packed", "sft", "multiple_choice", "dpo", "gpo", "distillation"],
)
def test_a_script_has_the_loss_and_the_gradients_of_the_package(
    name: str, objective: Any, source: str, tmp_path: Path
) -> None:
    model, tokenizer = load_model("tiny", lora={"r": 4, "lora_dropout": 0.0}, device="cpu")
    generator = torch.Generator().manual_seed(0)
    for parameter_name, parameter in model.named_parameters():
        if "lora_B" in parameter_name:  # otherwise the adapter changes nothing yet
            torch.nn.init.normal_(parameter, std=0.05, generator=generator)
    twin, rows = script(name), load_problems(source, limit=6).to_list()
    if name == "dpo":
        rows = [twin.pair_of(row) for row in rows]
    if name == "gpo":
        rows = [twin.group_of(row) for row in rows]
    if name == "distillation":
        rows = [twin.row_of(row, row["solution"]) for row in rows]
    theirs = twin.batch_loss(model, tokenizer, rows)
    theirs = theirs[0] if isinstance(theirs, tuple) else theirs
    expected = gradients(theirs, model)
    how = {"reference": "adapter_off"} if name == "dpo" else {}
    made = make_trainer(model, tokenizer, rows, objective, output_dir=tmp_path, **how)
    model.train()
    ours = made.compute_loss(model, made.collate(list(made.train_dataset)))
    found = gradients(ours, model)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    assert largest > 1e-4
    assert found.keys() == expected.keys()
    for key, gradient in expected.items():
        assert float((found[key] - gradient).abs().max()) <= 1e-5 * largest, key


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_is_short_and_takes_from_the_package_only_the_model_and_the_data(
    name: str,
) -> None:
    text = (MINIMAL / f"{name}.py").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 120
    assert re.findall(r"^(?:from|import) mathsft.*$", text, re.MULTILINE) == [
        "from mathsft import load_model, load_problems"
    ]


FEWER = {
    **dict.fromkeys(["sft", "dpo", "gpo", "distillation"], (60, 15)),
    "grpo": (24, 12),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_runs_and_what_it_trains_improves(name: str, tmp_path: Path) -> None:
    text = (MINIMAL / f"{name}.py").read_text(encoding="utf-8")
    # Fewer steps improve these clearly.
    if name in FEWER:
        usual, fewer = FEWER[name]
        text, found = re.subn(
            rf"^(STEPS, .*) = {usual},", rf"\1 = {fewer},", text, flags=re.MULTILINE
        )
        assert found == 1
    script = tmp_path / f"{name}.py"
    script.write_text(text, encoding="utf-8")
    done = run_script(script)
    assert done.returncode == 0, done.stderr
    (before,), (after,) = (
        re.findall(r"(?:loss|accuracy) (-?[\d.]+)", line)[:1]
        for line in done.stdout.splitlines()
        if line.startswith("held out")
    )
    better = float(after) - float(before)
    least = 0.02 if name == "gpo" else 0.05  # a loss in probabilities, between about 0 and -1
    assert better > 0.1 if name in ("multiple_choice", "grpo") else better < -least, done.stdout
