"""A run's folder records enough to start the run again, from anywhere."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from mathsft.record import CONFIG, write_record


def written(folder: Path, recipe: dict[str, Any], *, processes: int = 1) -> str:
    write_record(folder, recipe, command="sft", seed=0, processes=processes)
    return (folder / CONFIG).read_text(encoding="utf-8")


def test_paths_are_written_in_full_and_what_only_looks_like_one_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("mine", "tiny", "no"):
        (tmp_path / folder).mkdir()
    (tmp_path / "rows.jsonl").touch()
    recipe = {
        "model": {"name": "mine"},
        "mix": {"parts": {"rows.jsonl": 3, "gsm8k": 2}},
        "sft": {"save_strategy": "no"},
    }
    found = yaml.safe_load(written(tmp_path / "run", recipe))
    assert found["model"]["name"] == str(tmp_path / "mine")
    assert found["mix"]["parts"] == {str(tmp_path / "rows.jsonl"): 3, "gsm8k": 2}
    assert found["sft"] == {"save_strategy": "no"}
    assert "name: tiny" in written(tmp_path / "other", {"model": {"name": "tiny"}})


def test_the_config_of_several_processes_says_how_they_are_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert written(tmp_path / "one", {}).startswith("# mathsft sft --config")
    several = written(tmp_path / "two", {}, processes=2)
    assert several.startswith("# torchrun --nproc_per_node 2 -m mathsft sft --config")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    machines = written(tmp_path / "many", {}, processes=16)
    assert machines.startswith("# torchrun --nnodes 2 --nproc_per_node 8 -m mathsft sft")
