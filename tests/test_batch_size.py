"""``auto`` takes the largest batch that fits; a step keeps its rows, and a run stays the same."""

import re
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as some
from recipe_lines import SHORT, mathsft_
from small_training import PROBLEMS, trainer

from mathsft.cli import COMMANDS
from mathsft.models.loading import load_model
from mathsft.objectives import objective_class, objective_classes
from mathsft.recipes import load_recipe, shipped_recipes
from mathsft.recipes.estimate import estimate_memory, largest_batch
from mathsft.training.batch_size import Batch, divided
from mathsft.training.make import multiple_choice_trainer
from mathsft.training.sizing import DoesNotFitError

ROOT = Path(__file__).resolve().parent.parent
BATCH, STEPS = "per_device_train_batch_size", "gradient_accumulation_steps"
SFT = objective_class("sft")


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The published shapes of Qwen2.5; the hub is not contacted."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from scaling_costs import published_shapes

    with published_shapes():
        yield


def recipe(size: str = "0.5B", **sft: Any) -> dict[str, Any]:
    model = {"name": f"Qwen/Qwen2.5-{size}", "quantize": True}
    return {"model": model, "sft": {"step_rows": 16, BATCH: "auto", **sft}}


@pytest.mark.usefixtures("published")
@pytest.mark.parametrize(
    ("size", "device", "batch"),
    [("0.5B", "t4", 8), ("1.5B", "t4", 4), ("1.5B", "a100", 16), ("0.5B", "h100", 16)],
)
def test_it_is_the_largest_divisor_that_leaves_fifteen_per_cent_free(
    size: str, device: str, batch: int
) -> None:
    found = largest_batch(recipe(size), device=device)
    assert found.settings == {BATCH: batch, STEPS: 16 // batch}
    room = {"t4": 15.0, "a100": 42.0, "h100": 84.0}[device]
    assert total(size, device, batch) <= 0.85 * room
    assert batch == 16 or total(size, device, 2 * batch) > 0.85 * room
    assert f"{total(size, device, batch):.1f} GB estimated, of {room:.1f} GB" in str(found)


def total(size: str, device: str, batch: int) -> float:
    return estimate_memory(recipe(size, **{BATCH: batch}), device=device).total


@pytest.mark.usefixtures("published")
def test_every_shipped_recipe_fits_its_card_with_fifteen_per_cent_to_spare() -> None:
    rooms = {"t4": 15.0, "a100": 42.0, "a100-8": 42.0, "cluster": 84.0}
    assert rooms.keys() == shipped_recipes().keys() - {"tiny"}
    for name, room in rooms.items():
        shards = 16 if name == "cluster" else 1
        settings = load_recipe(name)
        for section in settings.keys() & {*objective_classes(), "mixing"}:
            longest = None
            if section in ("dr_grpo", "gpo"):  # all attempts at a problem of 80 tokens, all cut
                rollout = settings["rollout"]
                longest = 80 + rollout["num_generations"] * rollout["max_new_tokens"]
            found = estimate_memory(name, section, shards=shards, question_tokens=longest)
            print(name, section, found, sep="\n")
            assert found.total <= 0.85 * room, (name, section)
    larger = load_recipe("t4")
    larger["model"]["name"] = "Qwen/Qwen2.5-1.5B"
    for section in ("sft", "multiple_choice", "mixing"):
        assert estimate_memory(larger, section, device="t4").total <= 0.85 * 15


def test_the_shipped_recipes_keep_their_rows_in_a_step() -> None:
    wanted = {
        ("t4", "sft"): 16, ("t4", "multiple_choice"): 16, ("a100", "sft"): 16,
        ("t4", "dr_grpo"): 8, ("a100", "dr_grpo"): 16,
        ("a100", "multiple_choice"): 32, ("a100-8", "sft"): 16, ("a100-8", "multiple_choice"): 32,
    }  # fmt: skip
    for (name, section), rows in wanted.items():
        settings = load_recipe(name)[section]
        written = settings.get("step_rows")
        cards = 8 if name == "a100-8" else 1
        assert rows == (written or settings[BATCH] * settings.get(STEPS, 1) * cards)


@limits(deadline=None)  # the first call counts the model's parameters
@given(rows=some.integers(1, 64), processes=some.integers(1, 8), gigabytes=some.floats(0.02, 3.0))
def test_the_rows_of_a_step_stay_whatever_the_memory(
    rows: int, processes: int, gigabytes: float
) -> None:
    settings = {"model": {}, "sft": {BATCH: "auto", "step_rows": rows * processes}}
    try:
        found = largest_batch(settings, memory=gigabytes, device="cpu", processes=processes)
    except DoesNotFitError:
        return
    batch, steps = found.settings.values()
    assert batch * steps * processes == rows * processes
    smaller = largest_batch(settings, memory=gigabytes * 2, device="cpu", processes=processes)
    assert smaller.per_device_train_batch_size >= batch


@pytest.mark.usefixtures("published")
def test_several_processes_take_a_share_each() -> None:
    found = largest_batch(recipe("1.5B"), device="a100", processes=8)
    assert found.settings == {BATCH: 2, STEPS: 1}
    assert "2 rows at once in each of 8 processes, for the 16 rows of a step" in str(found)
    with pytest.raises(ValueError, match="step_rows=16: give a multiple of the 3 processes"):
        largest_batch(recipe("1.5B"), device="a100", processes=3)


@pytest.mark.usefixtures("published")
def test_what_does_not_fit_gets_the_advice_of_the_estimate() -> None:
    large = recipe("7B")
    large["model"]["quantize"] = False
    told = r"does not fit a T4 \(15 GB\) with 15 % to spare; with quantize: true it would"
    with pytest.raises(ValueError, match=f"auto: the model {told}"):
        largest_batch(large, device="t4")
    found = estimate_memory(large, device="t4")
    assert re.match(told, found.verdict)
    one_row = {**large, "sft": {BATCH: 1, STEPS: 16}}
    assert found.total == estimate_memory(one_row, device="t4").total


def test_a_cpu_gives_a_quarter_of_its_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    class Memory:
        available = 1.0e9

    monkeypatch.setattr(psutil, "virtual_memory", lambda: Memory)
    settings = {"model": {}, "sft": {BATCH: "auto", "step_rows": 64, "max_length": 256}}
    found = largest_batch(settings, device="cpu")
    assert found.settings == {BATCH: 8, STEPS: 8}
    assert "of 1.0 GB (a quarter of the free memory, since a CPU gains little" in str(found)


@pytest.mark.parametrize(
    ("settings", "objective", "message"),
    [
        ({BATCH: "auto"}, "sft", "auto needs step_rows"),
        ({BATCH: "auto", "step_rows": 8, STEPS: 2}, "sft", f"auto also chooses {STEPS}: leave"),
        ({BATCH: "auto", "step_rows": 8}, "kto", "the loss of kto depends on the batch"),
        ({BATCH: "auto", "step_rows": 8}, "smpo", "the loss of smpo depends on the batch"),
        ({BATCH: "auto", "step_rows": 8}, "dr_grpo", "dr_grpo may sample answers"),
        ({BATCH: 3, "step_rows": 8}, "sft", f"step_rows=8 does not agree with {BATCH}=3: give"),
        ({BATCH: 4, STEPS: 4, "step_rows": 8}, "sft", f"with {BATCH}=4 and {STEPS}=4: give"),
        ({BATCH: 4, "step_rows": 0}, "sft", "step_rows=0: give 1 or more, a whole number"),
    ],
)
def test_what_makes_no_sense_is_refused(
    settings: dict[str, Any], objective: str, message: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        divided(settings, objective_class(objective), processes=1, choose=lambda _: Batch(1, 8, ""))


def test_numbers_and_the_rows_of_a_step_give_the_accumulation() -> None:
    def of(processes: int = 1, **settings: int) -> dict[str, Any]:
        return divided(settings, SFT, processes=processes, choose=lambda _: Batch(1, 1, ""))

    assert of(**{BATCH: 4, "step_rows": 16}) == {BATCH: 4, STEPS: 4}
    assert of(2, **{BATCH: 4, "step_rows": 16}) == {BATCH: 4, STEPS: 2}
    assert of(**{BATCH: 4, STEPS: 2}) == {BATCH: 4, STEPS: 2}


def test_a_trainer_in_python_takes_auto(
    small_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, tokenizer = load_model(small_model_dir, lora={"r": 4}, device="cpu")
    made = multiple_choice_trainer(
        model, tokenizer, PROBLEMS, output_dir=tmp_path, step_rows=8,
        per_device_train_batch_size="auto",
    )  # fmt: skip
    assert (made.args.per_device_train_batch_size, made.args.gradient_accumulation_steps) == (8, 1)
    assert "batch: 8 rows at once, for the 8 rows of a step: " in capsys.readouterr().out


@pytest.mark.usefixtures("runs")
def test_the_chosen_numbers_are_in_the_runs_config_and_another_card_resumes_it(
    runs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    line = [*SHORT, "--step_rows", "8", f"--{BATCH}", "auto", "--max_steps", "4"]
    line += ["--save_strategy", "steps", "--save_steps", "2", "--output_dir", str(runs / "one")]
    mathsft_("sft", *line)
    out = capsys.readouterr().out
    assert out.index("batch: 8 rows at once, for the 8 rows of a step: ") < out.index("train: ")
    config = yaml.safe_load((runs / "one" / "config.yaml").read_text(encoding="utf-8"))
    assert {key: config["sft"][key] for key in (BATCH, STEPS, "step_rows")} == {
        BATCH: 8, STEPS: 1, "step_rows": 8
    }  # fmt: skip

    class Memory:  # of another machine
        available = 0.5e9

    monkeypatch.setattr(psutil, "virtual_memory", lambda: Memory)
    mathsft_("sft", *line, "--resume", "true")
    out = capsys.readouterr().out
    assert "batch: 4 rows at once, 2 times, for the 8 rows of a step: " in out
    assert "training had ended" in out
    with pytest.raises(SystemExit, match=r"holds a run with other settings \(.*sft\.step_rows"):
        mathsft_("sft", *line, "--step_rows", "4", "--resume", "true")


def test_a_run_resumed_in_other_batches_ends_in_the_same_weights(
    small_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The rows of every step are the same; without dropout so are the weights, but for rounding."""
    found = []
    for stop in (None, 3):
        settings: dict[str, Any] = {BATCH: 4, STEPS: 2, "lora": {"r": 4, "lora_dropout": 0.0}}
        made = in_batches(small_model_dir, tmp_path / str(stop), **settings)
        made.train()
        if stop:
            (tmp_path / "3" / "checkpoint-6").rename(tmp_path / "done")
            made = in_batches(small_model_dir, tmp_path / "3", **{**settings, BATCH: 8, STEPS: 1})
            made.train(resume_from_checkpoint=True)
            assert "training resumes after step 3 of 6" in capsys.readouterr().out
        found.append({n: p for n, p in made.model.named_parameters() if p.requires_grad})
    for name, weight in found[0].items():
        torch.testing.assert_close(found[1][name], weight, rtol=0, atol=1e-5)


def in_batches(model_dir: Path, folder: Path, **settings: Any) -> Any:
    model, _ = load_model(model_dir, lora=settings.pop("lora"), device="cpu")
    return trainer(model_dir, folder, model=model, save_steps=3, **settings)


@pytest.mark.usefixtures("published")
def test_the_command_prints_the_choice(capsys: pytest.CaptureFixture[str]) -> None:
    mathsft_("estimate-memory", "t4")
    out = capsys.readouterr().out
    assert "GB: fits a T4 (15 GB); batch: 8 rows at once, 2 times" in out
    assert "estimate-memory" in COMMANDS
