"""What cannot be trained is refused when the trainer is made, and leaves nothing behind."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from test_raw_rows import OWN

from mathsft.generation.rewards import reward_by_name
from mathsft.models.loading import load_model
from mathsft.models.trained_weights import fit_to_model, lora_config
from mathsft.objectives import objective_classes
from mathsft.record import CONFIG
from mathsft.training.by_recipe import train_by_recipe
from mathsft.training.leftovers import nothing_left
from mathsft.training.make import make_trainer, sft_trainer
from mathsft.training.make_rollouts import rollout_trainer

ROWS = [{**OWN, "question": f"{n} + 2?", "answer": str(n + 2)} for n in range(8)]
BEST = {"eval_strategy": "no", "load_best_model_at_end": True}
EARLY: dict[str, dict[str, Any]] = {
    "eval_on_start needs rows": {"eval_on_start": True},
    "eval_strategy needs rows": {"eval_strategy": "steps", "eval_steps": 1},
    "load_best_model_at_end needs evaluations": BEST,
    "save_strategy=best needs evaluations": {"save_strategy": "best"},
    "activation_offloading would change nothing": {"activation_offloading": True},
    "torch_compile would change nothing": {"torch_compile": True},
    "deepspeed.*(not installed|no file)": {"deepspeed": "absent.json"},
    "fsdp_config: there is no file absent.json": {"fsdp_config": "absent.json"},
    "accelerator_config: there is no file": {"accelerator_config": "absent.json"},
    "fsdp_config changes nothing without fsdp": {"fsdp_config": {"min_num_params": 1}},
    "optim_args='odd'": {"optim_args": "odd"},
    "lr_scheduler_type='cosine_with_min_lr'": {"lr_scheduler_type": "cosine_with_min_lr"},
    r"lr_scheduler_kwargs=\{'odd': 1\}": {"lr_scheduler_kwargs": {"odd": 1}},
    "dataloader_persistent_workers needs": {"dataloader_persistent_workers": True},
    "report_to: unknown tracker 'wandbb'.*did you mean 'wandb'": {"report_to": "wandbb"},
    "debug=underflow_overflow watches": {"debug": "underflow_overflow"},
    "unknown train_sampling_strategy 'nonsense'": {"train_sampling_strategy": "nonsense"},
    "resume_from_checkpoint would change nothing": {"resume_from_checkpoint": "absent"},
}
# Settings that need a package: the package, and the setting.
PACKAGES: dict[str, dict[str, Any]] = {
    "liger_kernel": {"use_liger_kernel": True},
    "galore_torch": {"optim": "galore_adamw", "optim_target_modules": ["q_proj"]},
    "lomo_optim": {"optim": "lomo"},
    "mlflow": {"report_to": "mlflow"},
    "comet_ml": {"report_to": ["comet_ml"]},
}


@pytest.fixture(scope="module")
def loaded(small_model_dir: Path) -> Any:
    return load_model(small_model_dir, lora={"r": 2}, device="cpu")


@pytest.mark.parametrize("said", EARLY)
def test_a_setting_that_cannot_work_is_named_and_leaves_no_folder(
    said: str, loaded: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    reward, policy = reward_by_name("final_answer"), objective_classes()["rloo"]()
    with pytest.raises((ValueError, ImportError, FileNotFoundError), match=said):
        sft_trainer(*loaded, ROWS, output_dir=folder, **EARLY[said])
    with pytest.raises((ValueError, ImportError, FileNotFoundError), match=said):
        rollout_trainer(*loaded, ROWS, policy, reward, output_dir=folder, **EARLY[said])
    assert not folder.exists()


@pytest.mark.parametrize("package", PACKAGES)
def test_a_missing_package_is_named_and_leaves_no_folder(
    package: str, loaded: Any, tmp_path: Path
) -> None:
    if find_spec(package) is not None:
        pytest.skip("it is installed here")
    said = f"{next(iter(PACKAGES[package]))}.*pip install"
    with pytest.raises(ImportError, match=said):
        sft_trainer(*loaded, ROWS, output_dir=tmp_path / "run", **PACKAGES[package])
    assert not (tmp_path / "run").exists()


def test_a_push_without_a_token_is_refused_before_the_hub_is_asked(
    loaded: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(ValueError, match="push_to_hub needs a token"):
        sft_trainer(*loaded, ROWS, output_dir=tmp_path / "run", push_to_hub=True)
    assert not (tmp_path / "run").exists()


def failing_first_step(small_model_dir: Path, folder: Path) -> Any:
    """A trainer whose first step raises in PyTorch: nobody reads these arguments before."""
    model, tokenizer = load_model(small_model_dir, lora={"r": 2}, device="cpu")
    return sft_trainer(
        model, tokenizer, ROWS, output_dir=folder, gradient_checkpointing=True,
        gradient_checkpointing_kwargs={"odd": 1}, disable_tqdm=True,
    )  # fmt: skip


def test_a_first_step_that_fails_leaves_only_what_was_there(
    small_model_dir: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="odd"):
        failing_first_step(small_model_dir, tmp_path / "new").train()
    assert not (tmp_path / "new").exists()
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(ValueError, match="odd"):
        failing_first_step(small_model_dir, tmp_path / "there").train()
    assert [path.name for path in (tmp_path / "there").iterdir()] == ["notes.txt"]
    with pytest.raises(ValueError, match="not a complete checkpoint"):
        failing_first_step(small_model_dir, tmp_path / "new").train(str(tmp_path / "there"))
    assert not (tmp_path / "new").exists()


def test_a_trainer_that_cannot_be_made_leaves_no_folder(loaded: Any, tmp_path: Path) -> None:
    policy, reward = objective_classes()["rloo"](), reward_by_name("final_answer")
    with pytest.raises(ValueError, match="fewer than the 16"):
        rollout_trainer(
            *loaded, ROWS, policy, reward, output_dir=tmp_path / "run", max_new_tokens=8,
            per_device_train_batch_size=16,
        )  # fmt: skip
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("below", ["", "run"])
def test_a_file_as_the_output_folder_is_named_and_stays(
    loaded: Any, tmp_path: Path, below: str
) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match="is a file, or lies below one: give a folder as"):
        sft_trainer(
            *loaded, ROWS, output_dir=tmp_path / "file" / below, max_steps=1, disable_tqdm=True
        ).train()
    assert (tmp_path / "file").read_text() == "mine"


def recipe(small_model_dir: Path, rows: Path, **settings: Any) -> dict[str, Any]:
    rows.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    return {
        "model": {"name": str(small_model_dir), "device": "cpu", "lora": {"r": 2}},
        "train": {"source": str(rows)},
        "sft": {"max_steps": 1, "disable_tqdm": True, **settings},
    }


def test_a_failed_run_does_not_block_the_next_start(small_model_dir: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    odd = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"odd": 1}}
    for settings in (odd, {"eval_on_start": True}, {"use_liger_kernel": True}):
        if "use_liger_kernel" in settings and find_spec("liger_kernel") is not None:
            continue
        given = recipe(small_model_dir, tmp_path / "rows.jsonl", **settings)
        with pytest.raises((ValueError, ImportError)):
            train_by_recipe(given, output_dir=folder)
        assert not folder.exists()
    assert train_by_recipe(recipe(small_model_dir, tmp_path / "rows.jsonl"), output_dir=folder)
    assert (folder / CONFIG).is_file()


def test_an_interrupt_before_the_first_step_leaves_no_run_and_one_after_it_does(
    tmp_path: Path,
) -> None:
    def interrupted(folder: Path, begun: bool) -> None:
        with nothing_left(folder, begun=lambda: begun):
            folder.mkdir()
            (folder / CONFIG).write_text("sft: {}\n", encoding="utf-8")
            raise KeyboardInterrupt

    for begun in (False, True):
        with pytest.raises(KeyboardInterrupt):
            interrupted(tmp_path / f"run-{begun}", begun)
        assert (tmp_path / f"run-{begun}").exists() is begun


@pytest.mark.parametrize(
    ("given", "layers"),
    [
        ("all-linear", 14), (["all-linear"], 14), ("q_proj", 2), (["q_proj"], 2),
        ("q_proj, v_proj", 4), (("q_proj", "v_proj"), 4), (r".*\.(q|k)_proj", 4),
    ],
)  # fmt: skip
def test_names_of_modules_in_a_text_are_names(
    given: Any, layers: int, small_model_dir: Path
) -> None:
    model, _ = load_model(small_model_dir, lora={"r": 2, "target_modules": given}, device="cpu")
    assert sum("lora_A" in name for name, _ in model.named_parameters()) == layers


def test_other_settings_of_lora_take_one_name_too(small_model_dir: Path) -> None:
    def adapted(**settings: Any) -> list[str]:
        model, _ = load_model(small_model_dir, lora={"r": 2, **settings}, device="cpu")
        return [n for n, p in model.named_parameters() if p.requires_grad]

    assert not any("q_proj" in name for name in adapted(exclude_modules="q_proj"))
    assert all("layers.1." in name for name in adapted(layers_to_transform=1))
    saved = adapted(modules_to_save="norm", target_modules="q_proj")
    assert any("modules_to_save" in name for name in saved)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"target_modules": 5}, "target_modules=5: give the name"),
        ({"target_modules": "nonsense"}, "no module named nonsense"),
        ({"target_modules": [5]}, "are texts"),
        ({"modules_to_save": "odd"}, "modules_to_save: unknown module 'odd'"),
        ({"target_parameters": "odd"}, "target_parameters: unknown weight 'odd'"),
        ({"layers_to_transform": "1"}, "layers_to_transform='1': give the number"),
        ({"alpha_pattern": "q_proj"}, "alpha_pattern='q_proj': give a mapping"),
    ],
)
def test_a_name_that_the_model_lacks_or_another_type_is_refused(
    setting: Any, said: str, small_model_dir: Path
) -> None:
    model, _ = load_model(small_model_dir, device="cpu")
    with pytest.raises(ValueError, match=said):
        fit_to_model(lora_config(**setting), model)


def test_make_trainer_checks_every_objective_alike(loaded: Any, tmp_path: Path) -> None:
    for name, objective in objective_classes().items():
        if name in ("classification", "reward_model") or objective.needs_hidden:
            continue
        with pytest.raises(ValueError, match="eval_on_start needs rows"):
            make_trainer(
                *loaded, ROWS, objective(), output_dir=tmp_path / "run", eval_on_start=True
            )
