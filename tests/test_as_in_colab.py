"""Lessons 01 to 04 from top to bottom, as a user with a T4 runs them, with names from the hub.

The t4 recipe's model and data sets come from a hub on the loopback (`stocked_hub`). Only the
parameters cell of each notebook is changed, to make it short.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import nbformat
import pytest
from hub import LocalHub, local_hub  # noqa: F401  (the fixture)
from stocked_hub import stock

PROJECT = Path(__file__).parent.parent
SECRETS = {"HF_TOKEN": "hf_" + "Zq7" * 11, "WANDB_API_KEY": "7d" * 20}
# The text appended to the parameters cell of each lesson.
SHORT = {
    "01_sft": """
recipe["train"]["limit"], recipe["test"]["limit"] = 60, 12
recipe["choices"]["limit"], recipe["sft"]["max_steps"] = 24, 3
recipe["worked"]["max_new_tokens"] = 8
""",
    "02_multiple_choice": """
recipe["choices_train"]["limit"], recipe["choices"]["limit"] = 80, 24
recipe["test"]["limit"] = 12
recipe["multiple_choice"].update(max_steps=3, learning_rate=2e-3)
recipe["worked"]["max_new_tokens"] = 8
""",
    "03_mathqa_mixing": """
TEST_ROWS = 60
recipe["mixing"].update(max_steps=8, learning_rate=2e-3)
recipe["test"]["limit"] = 40
""",
    "04_evaluation": """
LIMIT = 60
""",
}


@pytest.fixture
def hub(local_hub: LocalHub) -> LocalHub:  # noqa: F811
    return stock(local_hub, ["Qwen/Qwen2.5-0.5B"])


RUN = """
import os, sys, nbformat
from nbclient import NotebookClient
os.chdir({folder!r})
notebook = nbformat.read({name!r}, 4)
try:
    NotebookClient(notebook, timeout=850, kernel_name="python3").execute()
finally:
    nbformat.write(notebook, {name!r})
"""


def run(hub: LocalHub, lesson: str, folder: Path, home: Path) -> str:
    """Execute a copy of the lesson; return everything that its cells printed."""
    notebook: Any = nbformat.read(PROJECT / "notebooks" / f"{lesson}.ipynb", 4)
    (parameters,) = [c for c in notebook.cells if "parameters" in c.metadata.get("tags", [])]
    parameters.source += "\n" + SHORT[lesson]
    path = folder / f"{lesson}.ipynb"
    nbformat.write(notebook, path)
    done = hub.python(RUN.format(folder=str(folder), name=path.name), home=home)
    assert done.returncode == 0, f"{lesson}\n{done.stderr[-4000:]}"
    cells = [c for c in nbformat.read(path, 4).cells if c.cell_type == "code"]
    return "".join(o.get("text", "") for cell in cells for o in cell.outputs)


def no_secret_in(folder: Path) -> list[Path]:
    """Check that no file under ``folder`` holds a token; return the files except .env."""
    searched = [path for path in folder.rglob("*") if path.is_file() and path.name != ".env"]
    for path in searched:
        data = path.read_bytes()
        assert not any(value.encode() in data for value in SECRETS.values()), path
    return searched


@pytest.mark.slow
@pytest.mark.colab
def test_lessons_1_to_4_run_on_the_t4_recipe_and_survives_the_loss_of_the_machine(
    hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, home, drive = tmp_path / "content", tmp_path / "home", tmp_path / "drive"
    folder.mkdir()
    drive.mkdir()
    (folder / ".env").write_text("".join(f"{k}={v}\n" for k, v in SECRETS.items()))
    for name in (*SECRETS, "MATHSFT_SOURCE", "MATHSFT_MATHQA", "MATHSFT_OBJECTIVE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {
        "MATHSFT_PROFILE": "t4",
        "MATHSFT_RUNS": str(tmp_path / "runs"),
        "MATHSFT_KEEP": str(drive),
        "WANDB_MODE": "offline",  # there is a key, so wandb is used; it must not need the network
    }.items():
        monkeypatch.setenv(name, value)

    printed = {lesson: run(hub, lesson, folder, home) for lesson in SHORT}
    assert "profile    t4" in printed["01_sft"]
    assert "found: SFT, multiple choice, MathQA" in printed["04_evaluation"]
    results = [json.loads(p.read_text()) for p in (tmp_path / "runs" / "results").glob("*.json")]
    assert {r["model"] for r in results} == {"Qwen/Qwen2.5-0.5B"}

    assert "wandb" in {part for path in no_secret_in(tmp_path) for part in path.parts}

    # The machine is lost; the notebook is opened again on another one.
    shutil.rmtree(tmp_path / "runs")
    again = run(hub, "01_sft", folder, home)
    assert "training had ended" in again
    assert f"from {drive / '01_sft' / 'checkpoint-3'}" in again
    assert "training had ended" not in printed["01_sft"]
    no_secret_in(tmp_path)
