"""`watch --serve`: each checkpoint through a server of its own, beside the training run."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from own_tasks import task_file
from served_tasks import written_task

from mathsft.data.problems import read_problems
from mathsft.evaluation import served_checkpoints
from mathsft.evaluation import watch as watching
from mathsft.evaluation.watch import watch
from mathsft.generation.server_forms import ServerError
from mathsft.models.adapters import add_adapter
from mathsft.models.loading import load_model
from mathsft.training.make import multiple_choice_trainer

LOOPBACK = f"{sys.executable} {Path(__file__).with_name('model_server.py')} {{model}} {{port}}"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a real training run with checkpoints 2 and 4."""
    folder = tmp_path_factory.mktemp("training")
    model, tokenizer = load_model("tiny")
    problems = read_problems("tiny-mathqa", limit=16)[0]
    multiple_choice_trainer(
        add_adapter(model), tokenizer, problems, output_dir=folder, max_steps=4, save_steps=2,
        save_strategy="steps", per_device_train_batch_size=4, report_to="none", max_length=256,
        learning_rate=1e-3,
    ).train()  # fmt: skip
    return folder


@pytest.fixture
def training(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "training"))


@pytest.mark.slow
def test_a_checkpoint_through_a_server_has_the_log_likelihoods_of_its_own_evaluation(
    training: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = str(task_file(tmp_path))
    (training / "checkpoint-4" / "trainer_state.json").unlink()  # half-written: not read
    own = watch(training, tasks=task, timeout=0, results=tmp_path / "own")
    served = watch(training, tasks=task, timeout=0, serve=LOOPBACK)
    assert [r.name for r in served] == [r.name for r in own] == ["checkpoint-2"]
    for ours, theirs in zip(own[0].scores(), served[0].scores(), strict=True):
        assert theirs == pytest.approx(ours, abs=1e-3)  # the sums are rounded
    assert served[0].hardware.startswith("vllm at http://127.0.0.1:")
    assert (served[0].model, served[0].adapter) == ("tiny", str(training / "checkpoint-2"))
    left = {path.name for path in (training / "results").iterdir()}
    assert left == {"checkpoint-2.mine.json", "serving"}
    assert [path.name for path in (training / "results" / "serving").iterdir()] == ["server.log"]
    assert not [p for p in psutil.process_iter(["cmdline"]) if str(training) in str(p.info)]
    # After a restart nothing is evaluated twice, and no server starts.
    monkeypatch.setattr(watching, "evaluate_served", lambda *_, **__: pytest.fail("twice"))
    assert watch(training, tasks=task, timeout=0, serve=LOOPBACK) == served


@pytest.mark.slow
def test_transformers_serve_answers_for_a_checkpoint(training: Path, tmp_path: Path) -> None:
    task = str(written_task(tmp_path))
    shutil.rmtree(training / "checkpoint-2")
    own = watch(training, tasks=task, timeout=0, results=tmp_path / "own")
    served = watch(training, tasks=task, timeout=0, serve="transformers")
    assert [r.name for r in served] == ["checkpoint-4"]
    assert [r.harness["exact_match,last"] for r in served] == [
        r.harness["exact_match,last"] for r in own
    ]


def test_a_server_that_does_not_start_ends_the_watch_with_its_log(
    training: Path, tmp_path: Path
) -> None:
    script = tmp_path / "broken.py"
    script.write_text("import sys; sys.exit('no GPU left')")
    serve = f"{sys.executable} {script} {{model}} {{port}}"
    with pytest.raises(ServerError, match=r"(?s)ended with status 1.*no GPU left"):
        watch(training, tasks=str(task_file(tmp_path)), timeout=0, serve=serve)
    assert not [*(training / "results").glob("*.json")]
    assert not [*(training / "results" / "serving").glob("checkpoint-*")]


def test_a_checkpoint_that_is_removed_while_its_server_starts_is_skipped(
    training: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def rotated(checkpoint: Path, **_: Any) -> Any:
        shutil.rmtree(checkpoint)
        raise ServerError("the server ended")

    monkeypatch.setattr(watching, "evaluate_served", rotated)
    assert watch(training, tasks=str(task_file(tmp_path)), timeout=0, serve=LOOPBACK) == []
    assert "checkpoint-2 was removed while it was evaluated" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"tasks": "maths"}, "a suite: watch evaluates one task"),
        ({"serve": "no-such-program {model} {port}"}, "no program"),
        ({"serve": "vlm"}, "vllm"),
        ({"serve_timeout": 0.0}, "serve_timeout"),
    ],
)
def test_what_cannot_be_served_is_told_before_anything_starts(
    tmp_path: Path, given: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        watch(tmp_path, **{"tasks": "mathqa_tiny", "timeout": 0, "serve": LOOPBACK, **given})


def test_a_server_gets_no_gpu_that_nobody_gave_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with pytest.raises(ValueError, match="Set CUDA_VISIBLE_DEVICES"):
        watch(tmp_path, tasks="mathqa_tiny", timeout=0, serve=LOOPBACK)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert watch(tmp_path, tasks="mathqa_tiny", timeout=0, serve=LOOPBACK) == []


def test_an_adapter_is_merged_for_its_server_and_the_folder_goes_again(
    training: Path, tmp_path: Path
) -> None:
    with served_checkpoints._whole(training / "checkpoint-2", "tiny", tmp_path / "m") as folder:
        assert json.loads((folder / "config.json").read_text())["dtype"] == "float32"
        assert (folder / "tokenizer.json").exists()
    assert not (tmp_path / "m").exists()
