"""Nothing is written, emptied or removed through a link: a backup and other files stay whole."""

import json
import os
import shutil
from pathlib import Path

import pytest
from small_training import trainer

from mathsft.files import own_file, remove, write_whole
from mathsft.generation.journal import add_lines, open_journal
from mathsft.record import write_record
from mathsft.training.checkpoints import checkpoint_problem, rotate, set_aside
from mathsft.training.writing import written


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def linked_copy(folder: Path, backup: Path) -> dict[str, bytes]:
    """What ``cp -al`` makes: every file gets a second name."""
    shutil.copytree(folder, backup, copy_function=os.link)
    return contents(backup)


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "thesis.tex").write_text("years of work")
    (folder / "notes.txt").write_text("mine")
    return folder


def test_rotation_leaves_a_backup_of_hard_links_whole(training: Path, tmp_path: Path) -> None:
    before = linked_copy(training, tmp_path / "backup")
    removed = rotate(training, keep=1, newest=training / "checkpoint-6")
    assert [path.name for path in removed] == ["checkpoint-2", "checkpoint-4"]
    assert contents(tmp_path / "backup") == before
    assert checkpoint_problem(tmp_path / "backup" / "checkpoint-2") is None


def test_rotation_follows_no_link_in_a_checkpoint(training: Path, outside: Path) -> None:
    old = training / "checkpoint-2"
    (old / "link.txt").symlink_to(outside / "thesis.tex")
    (old / "folder").symlink_to(outside)
    (old / "manifest.json").unlink()
    (old / "manifest.json").symlink_to(outside / "notes.txt")
    before = contents(outside)
    rotate(training, keep=1, newest=training / "checkpoint-6")
    assert not old.exists()
    assert contents(outside) == before


def test_of_a_checkpoint_that_is_a_link_only_the_link_goes(training: Path, tmp_path: Path) -> None:
    large_disk = tmp_path / "disk"
    (training / "checkpoint-2").rename(large_disk)
    (training / "checkpoint-2").symlink_to(large_disk)
    before = contents(large_disk)
    rotate(training, keep=1, newest=training / "checkpoint-6")
    assert sorted(path.name for path in training.glob("c*")) == ["checkpoint-6"]
    assert contents(large_disk) == before


def test_files_without_a_second_name_are_emptied_first_and_pipes_are_not_opened(
    tmp_path: Path,
) -> None:
    """A folder in Drive's bin uses no space; an open file shows its size at the end."""
    old = tmp_path / "old"
    (old / "inside").mkdir(parents=True)
    (old / "inside" / "weights").write_bytes(b"1" * 1000)
    os.mkfifo(old / "pipe")
    with (old / "inside" / "weights").open("rb") as file:
        remove(old, empty=True)
        assert os.fstat(file.fileno()).st_size == 0
    assert not old.exists()
    remove(old)  # nothing happens


def test_a_checkpoint_is_written_beside_a_link_that_has_its_name(
    tmp_path: Path, outside: Path
) -> None:
    checkpoint, before = tmp_path / "checkpoint-2", contents(outside)
    for target in (outside, tmp_path / "gone"):
        checkpoint.symlink_to(target)
        with written(checkpoint, {}):
            (checkpoint / "thesis.tex").write_text("new")
        assert not checkpoint.is_symlink()
        remove(checkpoint)
    assert contents(outside) == before


def test_a_run_set_aside_replaces_no_folder_behind_a_link(training: Path, outside: Path) -> None:
    run = json.loads((training / "checkpoint-2" / "run.json").read_text())
    other = {**run, "settings": {**run["settings"], "seed": 9}}
    set_aside(training / "checkpoint-2", other)
    (kept,) = training.glob("run-*/checkpoint-2")
    shutil.copytree(kept, training / "checkpoint-2")
    remove(kept)
    kept.symlink_to(outside)
    before = contents(outside)
    set_aside(training / "checkpoint-2", other)
    assert checkpoint_problem(kept) is None
    assert contents(outside) == before


def test_a_resumed_run_changes_no_backup_of_its_folder(
    tmp_path: Path, small_model_dir: Path
) -> None:
    folder = tmp_path / "run"
    ours = trainer(small_model_dir, folder, max_steps=1)
    ours.save_state()
    write_record(folder, {}, command="sft", seed=0)
    with own_file(folder / "samples.jsonl").open("a") as file:
        file.write("{}\n")
    before = linked_copy(folder, tmp_path / "backup")
    ours.state.global_step = 1
    ours.save_state()
    write_record(folder, {}, command="sft", seed=0)
    with own_file(folder / "samples.jsonl").open("a") as file:
        file.write("{}\n")
    assert contents(tmp_path / "backup") == before
    names = ("trainer_state.json", "environment.json", "samples.jsonl")
    assert all((folder / name).read_bytes() != before[name] for name in names)


def test_what_is_added_to_goes_to_no_file_behind_a_link(tmp_path: Path, outside: Path) -> None:
    before = contents(outside)
    for name in ("thesis.tex", "absent"):
        (tmp_path / name).symlink_to(outside / name)
        with own_file(tmp_path / name).open("a") as file:
            file.write("new")
    for name in ("trainer_state.json", "index.html"):
        (tmp_path / name).symlink_to(outside / "notes.txt")
        write_whole(tmp_path / name, "new")
    assert contents(outside) == before
    assert (tmp_path / "thesis.tex").read_text() == "years of worknew"
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="a pipe"):
        own_file(tmp_path / "pipe")


def test_a_file_aside_is_not_written_through_a_link(tmp_path: Path, outside: Path) -> None:
    aside = tmp_path / f".environment.json.new-{os.getpid()}"
    aside.symlink_to(outside / "thesis.tex")
    write_whole(tmp_path / "environment.json", "{}")
    assert (outside / "thesis.tex").read_text() == "years of work"
    assert (tmp_path / "environment.json").read_text() == "{}"
    assert not aside.is_symlink()


def test_a_journal_cut_in_a_line_is_repaired_in_its_own_file_only(tmp_path: Path) -> None:
    journal, backup = tmp_path / "attempts.jsonl", tmp_path / "backup.jsonl"
    open_journal(journal, {"seed": 1}, kind="a test")
    add_lines(journal, [{"id": 1}])
    with journal.open("a") as file:
        file.write('{"id": 2')
    os.link(journal, backup)
    before = backup.read_bytes()
    assert open_journal(journal, {"seed": 1}, kind="a test") == ({1: {"id": 1}}, 1, 0)
    add_lines(journal, [{"id": 2}])
    assert backup.read_bytes() == before
    assert len(journal.read_text().splitlines()) == 3
    link = tmp_path / "link.jsonl"
    link.symlink_to(journal)  # the user named it, so it is followed
    add_lines(link, [{"id": 3}])
    assert link.is_symlink()
    assert len(journal.read_text().splitlines()) == 4
