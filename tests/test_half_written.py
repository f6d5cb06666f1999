"""What a kill leaves half written blocks no later start: it is told, set aside and made again."""

import json
import os
import resource
from pathlib import Path
from typing import Any

import pytest
from children import child, killed_at_call

from mathsft.data.local_files import write_rows
from mathsft.data.table import stored
from mathsft.files import write_whole
from mathsft.record import CONFIG, ENVIRONMENT, check_run, write_record
from mathsft.training.checkpoints import checkpoint_problem, write_manifest
from mathsft.training.writing import repair_checkpoints, written

RECIPE = {"sft": {"seed": 1, "learning_rate": 1e-4}}


@pytest.fixture(autouse=True)
def _no_git(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mathsft.record.git_revision", lambda: None)  # only to be quick


def started(folder: Path, *, resume: bool = True, recipe: Any = RECIPE) -> dict[str, Any]:
    check_run(folder, recipe, resume=resume)
    write_record(folder, recipe, command="sft", seed=1)
    return dict(json.loads((folder / ENVIRONMENT).read_text()))


def test_a_damaged_environment_is_kept_aside_and_the_run_resumes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    started(tmp_path, resume=False)
    whole = (tmp_path / ENVIRONMENT).read_bytes()
    config = (tmp_path / CONFIG).read_bytes()
    for cut in (0, 1, len(whole) // 2, len(whole) - 3):
        (tmp_path / ENVIRONMENT).write_bytes(whole[:cut])
        assert "resumed" not in started(tmp_path)
        assert "environment.json is damaged, perhaps by a kill" in capsys.readouterr().out
        assert (tmp_path / "environment.json.damaged").read_bytes() == whole[:cut]
        assert len(started(tmp_path)["resumed"]) == 1
    for text in ("[]", '{"resumed": 3}', "\xff"):
        (tmp_path / ENVIRONMENT).write_text(text, encoding="latin-1")
        started(tmp_path)
    assert (tmp_path / CONFIG).read_bytes() == config


HALVES = ["", "# mathsft sft", "sft:\n  seed: 1\n  learn", "sft: {seed: ", "[1]", "- {sft: 1}"]


@pytest.mark.parametrize("half", HALVES)
def test_a_config_that_is_not_whole_is_written_again(
    half: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    started(tmp_path, resume=False)
    (tmp_path / CONFIG).write_text(half)
    started(tmp_path)
    assert "config.yaml is damaged, perhaps by a kill" in capsys.readouterr().out
    assert (tmp_path / "config.yaml.damaged").read_text() == half
    check_run(tmp_path, RECIPE, resume=True)
    with pytest.raises(ValueError, match="other settings"):
        check_run(tmp_path, {"sft": {"seed": 2}}, resume=True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sft: [1]\n", "other settings"), ("sft:\n", "other settings"),
        ("sft: " + "[\n" * 2000, "config.yaml: not usable as YAML"),
        (None, "config.yaml is a pipe"),
    ],
    ids=["list", "null", "deep", "pipe"],
)  # fmt: skip
def test_a_config_of_another_form_is_named(tmp_path: Path, text: str | None, message: str) -> None:
    if text is None:
        os.mkfifo(tmp_path / CONFIG)
    else:
        (tmp_path / CONFIG).write_text(text)
    with pytest.raises(ValueError, match=message):
        check_run(tmp_path, RECIPE, resume=True)


# The environment and then the config are renamed to their names.
@pytest.mark.parametrize("function", ["fsync", "replace"])
@pytest.mark.parametrize("call", [1, 2])
def test_a_run_that_is_killed_while_it_is_recorded_can_start_again(
    function: str, call: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed_at_call(function, call, lambda: started(tmp_path, resume=False), monkeypatch)
    assert "resumed" not in started(tmp_path, resume=False)
    assert len(started(tmp_path)["resumed"]) == 1


def test_a_kill_at_a_resume_leaves_the_record_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = started(tmp_path, resume=False)
    killed_at_call("fsync", 1, lambda: started(tmp_path), monkeypatch)
    assert json.loads((tmp_path / ENVIRONMENT).read_text()) == first


def test_a_checkpoint_that_was_being_replaced_comes_back(
    training: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = training / "checkpoint-4"
    run = json.loads((checkpoint / "run.json").read_text())
    before = (checkpoint / "adapter_model.safetensors").read_bytes()

    def again() -> None:
        with written(checkpoint, run):
            (checkpoint / "adapter_model.safetensors").write_bytes(b"half")
            os.kill(os.getpid(), 9)

    with child(lambda pipe: again()) as process:
        process.join()
    assert checkpoint_problem(checkpoint)
    repair_checkpoints(training)
    assert "the former one is back" in capsys.readouterr().out
    assert checkpoint_problem(checkpoint) is None
    assert (checkpoint / "adapter_model.safetensors").read_bytes() == before
    # Killed after the manifest: the new one counts.
    (training / ".checkpoint-4.old").mkdir()
    repair_checkpoints(training)
    assert not list(training.glob(".checkpoint*"))
    assert checkpoint_problem(checkpoint) is None


def test_a_kill_amid_the_manifest_leaves_a_checkpoint_without_one(
    training: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = training / "checkpoint-6"
    (checkpoint / "manifest.json").unlink()
    killed_at_call("replace", 1, lambda: write_manifest(checkpoint), monkeypatch)
    assert checkpoint_problem(checkpoint) is None
    write_manifest(checkpoint)
    assert checkpoint_problem(checkpoint) is None


@pytest.mark.parametrize("damage", ["", '{"n', None])
def test_a_stored_table_with_damaged_notes_is_made_again(
    damage: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pyarrow as pa

    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    made = []

    def write(path: Path) -> dict[str, int]:
        made.append(path)
        table = pa.table({"n": [1, 2]})
        with pa.ipc.new_stream(path, table.schema) as stream:
            stream.write_table(table)
        return {"rows": 2}

    assert stored(write, "key")[1] == {"rows": 2}
    notes = tmp_path / "mathsft" / "key" / "notes.json"
    if damage is None:
        notes.unlink()
    else:
        notes.write_text(damage)
    for _ in range(2):
        table, found = stored(write, "key")
        assert (len(table), found) == (2, {"rows": 2})
    assert len(made) == 2


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.parquet"])
def test_rows_that_fail_to_be_written_leave_no_file(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from datasets import Dataset

    rows = Dataset.from_list([{"question": "1 + 1?", "answer": "2"}])
    killed_at_call("replace", 1, lambda: write_rows(rows, tmp_path / name), monkeypatch)
    assert not (tmp_path / name).exists()
    write_rows(rows, tmp_path / name)
    assert (tmp_path / name).exists()


def test_a_file_that_finds_no_room_leaves_the_old_one(tmp_path: Path) -> None:
    """The limit of a file's size stands for the end of the disk."""
    path = tmp_path / "environment.json"
    write_whole(path, "old")

    def fill(pipe: Any) -> None:
        import signal

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        try:
            write_whole(path, "x" * 5000)
        except OSError as error:
            pipe.send(str(error))

    with child(fill) as process:
        assert "File too large" in process.pipe.recv()
        process.join()
    assert path.read_text() == "old"
    assert [one.name for one in tmp_path.iterdir()] == ["environment.json"]


def test_a_checkpoint_with_json_that_is_nested_too_deep_cannot_be_used(tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint-1"
    checkpoint.mkdir()
    (checkpoint / "pytorch_model.bin").touch()
    (checkpoint / "trainer_state.json").write_text("[" * 100_000)
    (checkpoint / "config.json").write_text("[" * 100_000)
    assert "config.json" in str(checkpoint_problem(checkpoint, weights_only=True))
