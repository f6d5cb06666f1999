"""Each finished checkpoint is evaluated once; a half-written one never."""

import shutil
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from own_tasks import task_file
from result_rows import result

from mathsft.data.problems import read_problems
from mathsft.evaluation import watch as watching
from mathsft.evaluation.tasks import TASKS
from mathsft.evaluation.watch import watch
from mathsft.models.adapters import add_adapter
from mathsft.models.loading import load_model
from mathsft.training.make import multiple_choice_trainer

ARGUMENTS: dict[str, Any] = {"tasks": "mathqa_tiny", "limit": 10, "timeout": 0}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a real training run with checkpoints 2, 4 and 10."""
    folder = tmp_path_factory.mktemp("training")
    model, tokenizer = load_model("tiny")
    problems = read_problems("tiny-mathqa", limit=40)[0]
    multiple_choice_trainer(
        add_adapter(model), tokenizer, problems, output_dir=folder, max_steps=10, save_steps=2,
        save_strategy="steps", per_device_train_batch_size=4, report_to="none", max_length=256,
        learning_rate=1e-3,
    ).train()  # fmt: skip
    for step in (6, 8):
        shutil.rmtree(folder / f"checkpoint-{step}")
    return folder


@pytest.fixture
def training(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "training"))


@pytest.mark.slow
def test_checkpoints_are_evaluated_in_order_of_their_step_and_once(
    training: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = watch(training, **ARGUMENTS)
    assert [r.name for r in first] == ["checkpoint-2", "checkpoint-4", "checkpoint-10"]
    assert len({r.adapter_hash for r in first}) == 3
    # A new process knows it from the files alone.
    monkeypatch.setattr(watching, "evaluate", lambda *_, **__: pytest.fail("evaluated twice"))
    assert watch(training, **ARGUMENTS) == first
    shutil.rmtree(training / "checkpoint-2")  # rotated away: its result is kept
    assert watch(training, **ARGUMENTS) == first


def test_a_stopped_watch_resumes_where_it_was(
    training: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = watching.evaluate
    done: list[str] = []

    def stopped(*given: Any, name: str, **more: Any) -> Any:
        if done:
            raise KeyboardInterrupt
        done.append(name)
        return real(*given, name=name, **more)

    monkeypatch.setattr(watching, "evaluate", stopped)
    with pytest.raises(KeyboardInterrupt):
        watch(training, **ARGUMENTS)
    again: list[str] = []
    monkeypatch.setattr(
        watching,
        "evaluate",
        lambda *g, name, **m: (again.append(name), real(*g, name=name, **m))[1],
    )
    assert len(watch(training, **ARGUMENTS)) == 3
    assert [*done, *again] == ["checkpoint-2", "checkpoint-4", "checkpoint-10"]


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda c: (c / "trainer_state.json").unlink(), "it has no trainer_state.json"),
        (lambda c: truncate(c / "trainer_state.json"), "trainer_state.json has"),
        (lambda c: truncate(c / "adapter_model.safetensors"), "adapter_model.safetensors has"),
        (
            lambda c: (c / "adapter_model.safetensors").unlink(),
            "adapter_model.safetensors is missing",
        ),
    ],
    ids=["no state", "half a state", "half of the weights", "no weights"],
)
def test_a_half_written_checkpoint_is_not_read_and_is_named(
    training: Path, spoil: Any, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(training / "checkpoint-4")
    found = watch(training, **ARGUMENTS)
    assert [r.name for r in found] == ["checkpoint-2", "checkpoint-10"]
    told = capsys.readouterr().out
    assert "checkpoint-4 was not evaluated" in told
    assert message in told


@pytest.mark.slow
def test_a_checkpoint_that_is_finished_while_watching_is_evaluated(training: Path) -> None:
    state = training / "checkpoint-10" / "trainer_state.json"
    text = state.read_text()
    state.unlink()

    def finish() -> None:
        time.sleep(5)
        state.write_text(text)

    writer = threading.Thread(target=finish)
    writer.start()
    began = time.monotonic()
    found = watch(training, **{**ARGUMENTS, "timeout": 10, "poll": 0.5})
    writer.join()
    assert [r.name for r in found][-1] == "checkpoint-10"
    assert 10 <= time.monotonic() - began < 90


def test_a_folder_without_checkpoints_is_watched_until_the_time_is_over(tmp_path: Path) -> None:
    began = time.monotonic()
    assert watch(tmp_path / "later", tasks="mathqa_tiny", timeout=0.6, poll=0.2) == []
    assert 0.5 < time.monotonic() - began < 5


def test_a_checkpoint_that_disappears_is_skipped_and_a_line_says_so(
    training: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = watching.evaluate

    def rotated(*given: Any, name: str, **more: Any) -> Any:
        if name == "checkpoint-2":
            shutil.rmtree(training / name)
        return real(*given, name=name, **more)

    monkeypatch.setattr(watching, "evaluate", rotated)
    assert [r.name for r in watch(training, **ARGUMENTS)] == ["checkpoint-4", "checkpoint-10"]
    assert "checkpoint-2 was removed while it was evaluated" in capsys.readouterr().out


def test_a_damaged_result_is_evaluated_again_and_a_line_names_it(
    training: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(watching, "_problem", lambda checkpoint: None)
    again: list[str] = []

    def made(*given: Any, name: str, folder: Path, **more: Any) -> Any:
        again.append(name)
        found = result(name, [1, 0, 1], limit=more["limit"])
        found.save(folder)
        return found

    monkeypatch.setattr(watching, "evaluate", made)
    assert len(watch(training, **ARGUMENTS)) == 3
    file = training / "results" / "checkpoint-4.mathqa_tiny.limit-10.json"
    whole = file.read_bytes()
    for damage in (b"", whole[:100], whole[:-1], b"\xff" + whole):
        again.clear()
        file.write_bytes(damage)
        assert len(watch(training, **ARGUMENTS)) == 3
        assert again == ["checkpoint-4"]
        assert str(file) in capsys.readouterr().out
        assert file.read_bytes() == whole
    again.clear()
    (training / "results" / "other.mathqa.json").write_bytes(b"")
    assert len(watch(training, **ARGUMENTS)) == 3
    assert "left out: " in capsys.readouterr().out
    assert again == []
    # Another limit is another evaluation, and does not replace the first.
    assert [r.limit for r in watch(training, **{**ARGUMENTS, "limit": 5})] == [5, 5, 5]
    assert len(again) == 3
    assert [r.limit for r in watch(training, **ARGUMENTS)] == [10, 10, 10]


def test_a_result_is_read_again_only_if_its_file_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Watching looks every few seconds: the work does not grow with the results that are known."""
    reads: list[Path] = []
    real = watching.read_stored
    monkeypatch.setattr(
        watching, "read_stored", lambda path, kind: (reads.append(path), real(path, kind))[1]
    )
    known = watching._Evaluated()
    for n in range(4):
        result(f"checkpoint-{n}", [1, 0]).save(tmp_path)
    for _ in range(3):
        for n in range(4):
            assert known.holds(tmp_path, f"checkpoint-{n}", "mathqa_tiny", None, None)
    assert len(reads) == 4


def with_shots(folder: Path, monkeypatch: pytest.MonkeyPatch, shots: int) -> dict[str, Any]:
    """Arguments for a task whose file says how many examples it has."""
    tasks = Path(shutil.copytree(TASKS, folder / "tasks"))
    text = f"include: mathqa_tiny.yaml\ntask: mathqa_shots\nnum_fewshot: {shots}\n"
    (tasks / "mathqa_shots.yaml").write_text(text)
    monkeypatch.setattr("mathsft.evaluation.tasks.TASKS", tasks)
    return {**ARGUMENTS, "tasks": "mathqa_shots"}


@pytest.mark.slow
def test_a_task_with_examples_of_its_own_is_evaluated_once(
    training: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = with_shots(tmp_path, monkeypatch, 1)
    first = watch(training, **arguments)
    assert [r.num_fewshot for r in first] == [1, 1, 1]
    monkeypatch.setattr(watching, "evaluate", lambda *_, **__: pytest.fail("evaluated twice"))
    assert watch(training, **arguments) == first
    assert watch(training, **arguments, num_fewshot=1) == first


def test_a_num_fewshot_that_a_task_ignores_is_refused_at_once(
    training: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match=r"num_fewshot=2: mathqa_shots always has 0 examples"):
        watch(training, **with_shots(tmp_path, monkeypatch, 0), num_fewshot=2)


def test_several_processes_are_refused(training: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="without torchrun"):
        watch(training, **ARGUMENTS)


@pytest.mark.slow
def test_a_task_that_goes_by_another_name_is_refused_and_not_evaluated_for_ever(
    training: Path, tmp_path: Path
) -> None:
    group = tmp_path / "alone.yaml"
    group.write_text("group: alone\ntask:\n  - mathqa_tiny\n")
    with pytest.raises(ValueError, match="give the task's own name, 'mathqa_tiny'"):
        watch(training, **{**ARGUMENTS, "tasks": str(group)})


@pytest.mark.slow
def test_a_task_given_by_its_file_is_evaluated_once(training: Path, tmp_path: Path) -> None:
    arguments = {**ARGUMENTS, "tasks": str(task_file(tmp_path)), "results": tmp_path / "results"}
    first = watch(training, **arguments)
    assert first
    assert {result.task for result in first} == {"mine"}
    assert [result.date for result in watch(training, **arguments)] == [r.date for r in first]
