"""A saved adapter or model is never lost between two renames, nor refused after the training."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from children import killed_at_call
from model_files import base, trained

from mathsft.models.adapters import load_adapter, save_adapter
from mathsft.models.folders import check_replaceable, repair_folder, replaced_folder
from mathsft.models.loading import load_model
from mathsft.models.model_files import check_folder
from mathsft.models.pretrained import load_tokenizer
from mathsft.models.saving import save_model
from mathsft.training.by_recipe import train_by_recipe


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def written(folder: Path, text: str) -> None:
    with replaced_folder(folder) as new:
        (new / "config.json").write_text(text)


@pytest.fixture
def dead() -> int:
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


# Renames are: the old contents away, the new ones to the name.
@pytest.mark.parametrize(
    ("function", "call", "content"),
    [("fsync", 1, "old"), ("rename", 1, "old"), ("rename", 2, "new"), ("rmdir", 1, "new")],
)
def test_a_kill_at_any_point_leaves_the_old_or_the_new_folder(
    function: str, call: int, content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    folder = tmp_path / "adapter"
    written(folder, "old")
    killed_at_call(function, call, lambda: written(folder, "new"), monkeypatch)
    between = not folder.exists()
    assert between == (function == "rename" and call == 2)
    repair_folder(folder)
    assert (folder / "config.json").read_text() == content
    assert ("its new contents are there again" in capsys.readouterr().out) == between
    written(folder, "newer")
    assert names(tmp_path) == {"adapter"}  # what was left is gone
    assert (folder / "config.json").read_text() == "newer"


def test_old_contents_alone_get_their_name_back(
    tmp_path: Path, dead: int, capsys: pytest.CaptureFixture[str]
) -> None:
    written(tmp_path / "model", "old")
    (tmp_path / "model").rename(tmp_path / f".model.old-{dead}")
    (tmp_path / f".model.new-{dead + 10**7}").mkdir()  # of another, unfinished attempt
    (tmp_path / f".model2.old-{dead}").mkdir()
    repair_folder(tmp_path / "model")
    assert "its old contents are there again" in capsys.readouterr().out
    assert (tmp_path / "model" / "config.json").read_text() == "old"
    repair_folder(tmp_path / "model2")
    repair_folder(tmp_path / "absent" / "too")


def test_what_a_living_process_writes_is_left_to_it(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        for name in (f".model.old-{process.pid}", f".model.new-{process.pid}"):
            (tmp_path / name).mkdir()
        repair_folder(tmp_path / "model")
        assert not (tmp_path / "model").exists()
        written(tmp_path / "model", "ours")
        assert names(tmp_path) == {
            "model",
            f".model.old-{process.pid}",
            f".model.new-{process.pid}",
        }
        process.communicate(b"\n")
    written(tmp_path / "model", "ours")
    assert names(tmp_path) == {"model"}


def test_an_interrupt_between_the_renames_brings_the_old_folder_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path / "model", "old")
    real, calls = os.rename, []

    def interrupted(*args: Any) -> None:
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        real(*args)

    monkeypatch.setattr(os, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        written(tmp_path / "model", "new")
    assert (tmp_path / "model" / "config.json").read_text() == "old"
    assert names(tmp_path) == {"model"}


def test_whoever_reads_or_writes_an_adapter_next_repairs_it(
    adapter: Path, small_model_dir: Path, dead: int, capsys: pytest.CaptureFixture[str]
) -> None:
    aside = adapter.with_name(f".{adapter.name}.old-{dead}")
    for use in (
        lambda: load_adapter(base(small_model_dir), adapter),
        lambda: save_adapter(trained(base(small_model_dir)), adapter),
    ):
        adapter.rename(aside)
        use()
        assert "a process was killed while it replaced it" in capsys.readouterr().out
        assert adapter.is_dir()
        assert not aside.exists()


def test_a_model_is_repaired_when_it_is_loaded(
    small_model_dir: Path, tmp_path: Path, dead: int, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(small_model_dir, tmp_path / f".mine.new-{dead}")
    (tmp_path / f".mine.old-{dead}").mkdir()
    load_model(tmp_path / "mine", device="cpu")
    assert "its new contents are there again" in capsys.readouterr().out


def test_a_link_stays_and_what_it_points_to_is_replaced(
    adapter: Path, small_model_dir: Path, tmp_path: Path
) -> None:
    link, disk = tmp_path / "link", tmp_path / "disk" / "kept"
    disk.parent.mkdir()
    adapter.rename(disk)
    link.symlink_to(disk)
    model = trained(base(small_model_dir), scale=0.1)
    assert save_adapter(model, link) == link
    assert link.is_symlink()
    assert names(disk.parent) == {"kept"}
    (tmp_path / "to nothing").symlink_to(tmp_path / "disk" / "made")
    save_adapter(model, tmp_path / "to nothing")
    weights = [p / "adapter_model.safetensors" for p in (disk, tmp_path / "disk" / "made")]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(ValueError, match="loop is a link that leads back to itself"):
        save_adapter(model, tmp_path / "loop")


def with_clutter(folder: Path) -> None:
    """What macOS, Windows, Jupyter, git and the hub leave in a folder, and people's notes."""
    folder.mkdir(exist_ok=True)
    for name in (".DS_Store", "._config.json", "Thumbs.db", "desktop.ini", ".gitattributes"):
        (folder / name).write_text("theirs")
    (folder / ".ipynb_checkpoints").mkdir()
    (folder / ".ipynb_checkpoints" / "README-checkpoint.md").write_text("theirs")
    (folder / "LICENSE").symlink_to("absent")


def test_clutter_stays_and_the_adapter_or_model_is_replaced(
    adapter: Path, small_model_dir: Path, tmp_path: Path
) -> None:
    with_clutter(adapter)
    (adapter / "README.md").write_text("---\nlanguage: en\n---\n# My notes\n")
    (adapter / "chat_template.jinja").write_text("of the former one")
    model = trained(base(small_model_dir), scale=0.1)
    save_adapter(model, adapter)
    assert "# My notes" in (adapter / "README.md").read_text()
    assert not (adapter / "chat_template.jinja").exists()
    with_clutter(tmp_path / "model")
    (tmp_path / "model" / "README.md").write_text("# My notes")
    (tmp_path / "model" / "model-00001-of-00002.safetensors").touch()
    save_model(
        base(small_model_dir), load_tokenizer(str(small_model_dir), None), tmp_path / "model"
    )
    assert (tmp_path / "model" / "README.md").read_text() == "# My notes"
    assert not (tmp_path / "model" / "model-00001-of-00002.safetensors").exists()
    for folder in (adapter, tmp_path / "model"):
        assert (folder / ".DS_Store").read_text() == "theirs"
        assert names(folder / ".ipynb_checkpoints") == {"README-checkpoint.md"}
        assert os.readlink(folder / "LICENSE") == "absent"
    load_adapter(base(small_model_dir), adapter)
    load_model(tmp_path / "model", device="cpu")


@pytest.mark.usefixtures("no_weights")
@pytest.mark.parametrize(
    ("lora", "name", "other", "told"),
    [
        (True, "adapter", "thesis.tex", r"holds other files \(thesis.tex\)"),
        (True, "adapter", "config.json", "holds a full model"),
        (False, "model", "thesis.tex", "holds other files"),
        (False, "model", "adapter_config.json", "holds an adapter"),
    ],
)
@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_that_could_not_be_replaced_is_refused_before_training(
    lora: bool, name: str, other: str, told: str, resume: bool, runs: Path
) -> None:
    (runs / "mine" / name).mkdir(parents=True)
    (runs / "mine" / name / other).write_text("{}")
    recipe: dict[str, Any] = {"train": {"source": "tiny-gsm", "limit": 8}, "model": {"lora": lora}}
    with pytest.raises(ValueError, match=told):
        train_by_recipe(recipe, output_dir=runs / "mine", resume=resume)
    assert (runs / "mine" / name / other).read_text() == "{}"


def test_a_file_and_a_whole_file_system_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="file is a file"):
        check_folder(tmp_path / "file", holds="adapter")
    with pytest.raises(ValueError, match="/proc is a whole file system"):
        check_replaceable("/proc")
    check_folder(tmp_path / "absent", holds="model")


def test_the_folder_that_the_process_works_in_is_not_replaced(
    adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (adapter / ".hidden").mkdir()
    for here, name in ((adapter, "."), (adapter, str(adapter)), (adapter / ".hidden", "..")):
        monkeypatch.chdir(here)
        with pytest.raises(ValueError, match="is the folder that this process works in"):
            check_replaceable(name)
