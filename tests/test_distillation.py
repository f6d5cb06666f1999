"""Distillation in training: plain passes are the reference; teachers, stores, resuming, errors."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from chat_rows import with_template
from pair_training import assert_same_gradients, first_loss, gradients, moved
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import TrainerCallback

from mathsft.cli import main
from mathsft.models import distributions
from mathsft.models.loading import load_model
from mathsft.objectives.distillation import Distillation
from mathsft.objectives.sft import SFT
from mathsft.training.make import make_trainer
from mathsft.training.teacher_store import store_teacher

ROWS: list[dict[str, Any]] = [
    {
        "prompt": f"Tom has {n} apples and eats {n - 1}.{' How many are left?' * (n % 2)}\n\n",
        "completion": "He has 1 left." + " That is all." * (n % 3),
    }
    for n in range(3, 9)
]
TOLD = [{**row, "teacher_prompt": f"Answer! {row['prompt']}"} for row in ROWS[:4]] + ROWS[4:]
CHATS = [
    {"messages": [
        {"role": "user", "content": "Two and two?"}, {"role": "assistant", "content": "4"},
        {"role": "user", "content": "And one?"}, {"role": "assistant", "content": "It is 5."},
    ]},
    {"messages": [
        {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Good day"},
     ], "teacher_prompt": [{"role": "user", "content": "Be formal: hi"}]},
]  # fmt: skip


class Stop(TrainerCallback):
    """Interrupts a training run after a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self.step:
            raise KeyboardInterrupt


@pytest.fixture
def loaded() -> Any:
    """The packaged model in float32 with an adapter that changes it, without dropout."""
    model, tokenizer = load_model("tiny", lora={"r": 4, "lora_dropout": 0.0}, device="cpu")
    return moved(model), tokenizer


def other(seed: int = 1) -> Any:
    """A teacher: the packaged model with other noise, and its tokenizer."""
    model, tokenizer = load_model("tiny", device="cpu")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    return model, tokenizer


def trainer(loaded: Any, folder: Path, objective: Any, rows: Any = ROWS, **given: Any) -> Any:
    settings = {"disable_tqdm": True, "per_device_train_batch_size": 8, "max_length": 128}
    return make_trainer(
        *loaded, rows, objective, output_dir=folder, **{**settings, "eval_rows": rows, **given}
    )


def plain(model: Any, teacher: Any, tokenizer: Any, rows: Any, objective: Any) -> Tensor:
    """The mean over the completions' tokens, each row in a plain pass of its own."""
    values: list[Tensor] = []
    for row in rows:
        answer = tokenizer(row["prompt"] + row["completion"]).input_ids
        answer = [*answer[len(tokenizer(row["prompt"]).input_ids) :], tokenizer.eos_token_id]
        found = []
        for one, prompt in ((model, row["prompt"]), (teacher, row.get("teacher_prompt"))):
            ids = [*tokenizer(prompt or row["prompt"]).input_ids, *answer]
            found.append(one(torch.tensor([ids[:-1]])).logits[0, -len(answer) :].float())
        values.append(objective.compared(torch.tensor(answer), found[0], found[1].detach())[0])
    return torch.cat(values).mean()


@pytest.mark.parametrize("rows", [ROWS, TOLD], ids=["same prompt", "teacher_prompt"])
@pytest.mark.parametrize("loss_type", ["forward_kl", "reverse_kl", "slim"])
def test_a_forest_in_blocks_gives_the_loss_and_the_gradients_of_plain_passes(
    loaded: Any, tmp_path: Path, rows: Any, loss_type: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = loaded
    monkeypatch.setattr(distributions, "LOGITS_AT_ONCE", 12 * 800 * 5)  # five positions
    objective = Distillation(loss_type=loss_type, weight_by_label=True, ce_weight=0.3)
    made = trainer(loaded, tmp_path, objective, rows)
    ours = first_loss(made)
    found = gradients(ours, model)
    with model.disable_adapter(), torch.no_grad():
        base = load_model("tiny", device="cpu")[0]
    theirs = plain(model, base, tokenizer, rows, objective)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)
    assert_same_gradients(found, gradients(theirs, model))
    made.args.per_device_eval_batch_size = 2
    assert made.evaluate()["eval_loss"] == pytest.approx(theirs.item(), rel=1e-5)


@pytest.mark.parametrize("frozen", [True, False])
def test_a_second_model_teaches_an_adapter_and_a_whole_model(
    loaded: Any, tmp_path: Path, frozen: bool
) -> None:
    """A trained head needs the logits again; the teacher gets no gradient and stays as it is."""
    model, tokenizer = loaded if frozen else load_model("tiny", device="cpu")
    teacher = other()
    teacher[0].train()
    before = {name: value.clone() for name, value in teacher[0].state_dict().items()}
    objective = Distillation(loss_type="jsd", packing=False)
    made = trainer(
        (model, tokenizer), tmp_path, objective, TOLD, teacher=teacher, max_steps=2,
        save_strategy="steps", save_steps=2,
    )  # fmt: skip
    ours = first_loss(made)
    found = gradients(ours, model)
    theirs = plain(model, teacher[0], tokenizer, TOLD, objective)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)
    assert_same_gradients(found, gradients(theirs, model))
    made.train()
    assert teacher[0].training
    assert all(parameter.grad is None for parameter in teacher[0].parameters())
    assert all(parameter.requires_grad for parameter in teacher[0].parameters())
    for name, value in teacher[0].state_dict().items():
        assert torch.equal(value, before[name])
    kept = "adapter_model.safetensors" if frozen else "model.safetensors"
    saved = load_file(tmp_path / "checkpoint-2" / kept)
    assert sum(v.numel() for v in saved.values()) <= sum(p.numel() for p in model.parameters())
    assert sorted((tmp_path / "checkpoint-2").glob("*.safetensors")) == [
        tmp_path / "checkpoint-2" / kept
    ]


def test_chats_are_compared_on_all_their_turns(loaded: Any, tmp_path: Path) -> None:
    made = trainer((loaded[0], with_template(loaded[1])), tmp_path, Distillation(), CHATS)
    (row,) = made.train_dataset
    ids = [ids[::-1] for ids in row["teacher_ids"]]
    assert sorted(map(bool, ids)) == [False, True]
    batch = made.collate([row])
    assert torch.equal(batch["sequence"].bincount(), batch["teacher.sequence"].bincount())
    assert float(first_loss(made)) > 0


@pytest.mark.slow
def test_it_learns_and_a_stopped_run_ends_as_one_that_was_not_stopped(tmp_path: Path) -> None:
    teacher = other()

    def made(folder: str, **given: Any) -> Any:
        model = load_model("tiny", lora={"r": 4}, device="cpu")
        return trainer(
            model, tmp_path / folder, Distillation(), TOLD, teacher=teacher, max_steps=4,
            save_strategy="steps", save_steps=1, learning_rate=2e-3, warmup_steps=0,
            per_device_train_batch_size=1, max_length=64, **given,
        )  # fmt: skip

    before = made("untrained").evaluate()["eval_loss"]
    whole = made("whole")
    whole.train()
    assert whole.evaluate()["eval_loss"] < before
    with pytest.raises(KeyboardInterrupt):
        made("stopped", callbacks=[Stop(2)]).train()
    again = made("stopped")
    again.train(resume_from_checkpoint=True)
    weights = [dict(one.model.named_parameters()) for one in (whole, again)]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


@pytest.mark.slow
def test_another_teacher_or_setting_is_another_run(
    loaded: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {"max_steps": 1, "save_strategy": "steps", "save_steps": 1}

    def run(teacher: Any, objective: Any) -> str:
        fresh = load_model("tiny", lora={"r": 4}, device="cpu")
        made = trainer(fresh, tmp_path, objective, teacher=teacher, **given)
        made.train(resume_from_checkpoint=True)
        return capsys.readouterr().out

    run(other(1), Distillation())
    assert "starts again" not in run(other(1), Distillation())
    assert "starts again" in run(other(2), Distillation())
    assert "starts again" in run(other(2), Distillation(loss_type="reverse_kl"))


def test_other_words_and_impossible_teachers_are_refused(
    loaded: Any, tmp_path: Path, small_model_dir: Path
) -> None:
    def refused(told: str, objective: Any = None, *, student: Any = loaded, **given: Any) -> None:
        with pytest.raises(ValueError, match=told):
            trainer(student, tmp_path, objective or Distillation(), **given)

    refused("its vocabulary is another one", Distillation(teacher=str(small_model_dir)))
    small = load_model(small_model_dir, device="cpu")
    refused("its vocabulary is another one: 310 words", teacher=small)
    refused("its head has 310 rows", teacher=small[0])
    whole = load_model("tiny", device="cpu")
    refused("weights of the base are trained here", student=whole)
    refused("shares weights", student=whole, teacher=whole)
    refused("given twice", Distillation(teacher="tiny"), teacher=other())
    refused("'base' has no adapter", Distillation(teacher_adapter="x"))
    refused("expected a model", teacher="tiny")
    refused("compares with no teacher", SFT(), teacher=other())
    refused("use rollout_trainer", Distillation(on_policy=True))
    bad = [{**ROWS[0], "teacher_prompt": 3}]
    refused("row 0, column 'teacher_prompt': expected text or a list", rows=bad)
    refused("train_on_prompt", Distillation(train_on_prompt=True), rows=TOLD)
    with pytest.raises(FileNotFoundError):
        trainer(loaded, tmp_path, Distillation(teacher="/nowhere/teacher"))


def test_a_head_with_more_rows_than_words_is_cut(
    loaded: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As in Qwen2.5: the same words, but heads padded to other sizes."""
    teacher, tokenizer = other()
    expected = first_loss(trainer(loaded, tmp_path, Distillation(), teacher=(teacher, tokenizer)))
    teacher.resize_token_embeddings(len(tokenizer) + 64, mean_resizing=False)
    made = trainer(loaded, tmp_path, Distillation(), teacher=(teacher, tokenizer))
    assert "the first 795 are compared" in capsys.readouterr().out
    torch.testing.assert_close(first_loss(made), expected)


def test_sft_counts_a_teacher_prompt_that_it_does_not_read(
    loaded: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer(loaded, tmp_path, SFT(), TOLD, eval_rows=None)
    assert "column 'teacher_prompt'" in capsys.readouterr().out


@pytest.mark.parametrize("k", [7, 795])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_a_stored_teacher_gives_what_a_live_one_gives(
    loaded: Any, tmp_path: Path, k: int, temperature: float
) -> None:
    """All 795 words are the whole distribution; rows may come in another order, and in parts."""
    model, tokenizer = loaded
    teacher = other()
    few = Distillation(top_k=k, temperature=temperature)
    path = store_teacher(
        TOLD, tokenizer, teacher[0], tmp_path / "t.safetensors", objective=few, batch_size=4
    )
    live = Distillation(top_k=k if k < 795 else None, temperature=temperature)
    rows = TOLD[4:0:-1]
    expected = first_loss(trainer(loaded, tmp_path / "a", live, rows, teacher=teacher))
    theirs = gradients(expected, model)
    stored = Distillation(teacher=str(path), top_k=k, temperature=temperature)
    made = trainer(loaded, tmp_path / "b", stored, rows)
    ours = first_loss(made)
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-7)
    assert_same_gradients(gradients(ours, model), theirs)
    assert made.evaluate()["eval_loss"] == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.slow
def test_a_store_that_does_not_fit_or_is_damaged_is_refused(
    loaded: Any, tmp_path: Path, small_model_dir: Path
) -> None:
    path = tmp_path / "t.safetensors"
    asked = Distillation(top_k=5)
    store_teacher(ROWS, loaded[1], other()[0], path, objective=asked)

    def refused(told: str, *, student: Any = loaded, rows: Any = ROWS, **given: Any) -> None:
        objective = Distillation(**{"teacher": str(path), **given})
        with pytest.raises((ValueError, OSError), match=told) as error:
            trainer(student, tmp_path / "run", objective, rows)
        assert "\n" not in str(error.value)

    refused(
        "2 of 6 texts are not in it", rows=[*ROWS[:4], *[{**r, "prompt": "Hm"} for r in ROWS[4:]]]
    )
    refused("4 of 6 texts are not in it", rows=TOLD)
    refused("made at temperature 1.0", temperature=2.0)
    refused("top_k asks for 6", top_k=6)
    refused("compares logits", loss_type="mse")
    refused("is a store, which has no adapter", teacher_adapter="x")
    small = load_model(small_model_dir, lora={"r": 4}, device="cpu")
    refused("another tokenizer", student=small)
    refused("no such store", teacher=str(tmp_path / "none.safetensors"))
    whole = path.read_bytes()
    for damaged in (b"", whole[:-20], whole[: len(whole) // 2], b"\xff" * 100, b"[]"):
        path.write_bytes(damaged)
        refused("t.safetensors: not a whole safetensors file")
    path.write_bytes(whole[:-9] + bytes([whole[-9] ^ 4]) + whole[-8:])
    refused("damaged, its content is not what was written")
    tensors = {"keys": torch.zeros(3)}
    for about in (None, "null", "[]", "{", json.dumps({"format": "x"})):
        save_file(tensors, path, metadata=None if about is None else {"about": about})
        refused("not made by store_teacher|not valid JSON")
    path.unlink()
    path.mkdir()
    refused("t.safetensors: a folder")
    (tmp_path / "in the way").touch()
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "half.safetensors").write_bytes(whole[:-20])
    before = (tmp_path / "model.safetensors").read_bytes()
    for told, given, where in (
        ("t.safetensors: a folder", {"objective": asked}, path.name),
        ("in the way is a file", {"objective": asked}, "in the way/t.safetensors"),
        ("ends with .safetensors", {"objective": asked}, "t.bin"),
        (
            "not made by store_teacher; it is not replaced",
            {"objective": asked},
            "model.safetensors",
        ),
        ("it is not replaced", {"objective": asked}, "half.safetensors"),
        ("with top_k", {"objective": Distillation()}, "u.safetensors"),
        ("batch_size", {"objective": asked, "batch_size": 0}, "u.safetensors"),
    ):
        with pytest.raises(ValueError, match=told):
            store_teacher(ROWS, loaded[1], other()[0], tmp_path / where, **given)
    assert (tmp_path / "model.safetensors").read_bytes() == before


def test_the_command_line_trains_with_a_model_s_name_and_with_a_store(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("\n".join(map(json.dumps, TOLD)), encoding="utf-8")
    store = tmp_path / "t.safetensors"
    read = ["--train.source", str(rows), "--test", "null"]
    main(["store-teacher", "--path", str(store), *read, "--top_k", "9"])
    assert "9 words for each of" in capsys.readouterr().out
    for teacher in ("base", str(store)):
        folder = tmp_path / f"run-{Path(teacher).stem}"
        train = ["train", "--objective", "distillation", "--teacher", teacher, "--max_steps", "1"]
        main([*train, *read, "--loss_type", "jsd", "--output_dir", str(folder)])
        assert (folder / "adapter" / "adapter_model.safetensors").exists()
    main([*train, *read, "--check"])
    out = capsys.readouterr().out
    assert "no weights were loaded" in out
    assert "teacher_prompt" not in out  # it is read
