"""The lessons run on files of real problems, set by MATHSFT_SOURCE and MATHSFT_MATHQA."""

import json
import os
import shutil
import subprocess
import sys
from itertools import islice
from pathlib import Path

import nbformat
import pytest

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"
QUICK = Path(__file__).with_name("quick.yaml")  # with a few steps


def first_rows(data_dir: Path, folder: Path, count: int) -> dict[str, str]:
    """Write the first GSM8K and MathQA rows to files; return the variables that name them."""
    with open(data_dir / "gsm8k" / "train.jsonl", encoding="utf-8") as rows:
        (folder / "some.jsonl").write_text("".join(islice(rows, count)), encoding="utf-8")
    mathqa = json.loads((data_dir / "mathqa" / "dev.json").read_text(encoding="utf-8"))
    (folder / "mathqa.json").write_text(json.dumps(mathqa[: 2 * count]), encoding="utf-8")
    return {
        "MATHSFT_SOURCE": str(folder / "some.jsonl"),
        "MATHSFT_MATHQA": str(folder / "mathqa.json"),
    }


def run(name: str, folder: Path, variables: dict[str, str]) -> str:
    """Execute a copy of a lesson in ``folder``; return what its cells printed."""
    shutil.copy(NOTEBOOKS / name, folder)
    environment = os.environ | {
        **variables,
        "MATHSFT_RUNS": str(folder / "runs"),
        "MATHSFT_PROFILE": str(QUICK),
        "MATHSFT_QUESTIONS": "150",
        "PYTHONPATH": str(NOTEBOOKS.parent),
    }
    command = ["-m", "nbconvert", "--to", "notebook", "--execute", "--inplace"]
    done = subprocess.run(
        [sys.executable, *command, str(folder / name)],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return "".join(
        output.text
        for cell in nbformat.read(folder / name, 4).cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if output.output_type == "stream"
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "folder"), [("01_sft.ipynb", "01_sft"), ("02_multiple_choice.ipynb", "02_choices")]
)
def test_a_lesson_runs_on_gsm8k_rows(
    data_dir: Path, tmp_path: Path, name: str, folder: str
) -> None:
    printed = run(name, tmp_path, first_rows(data_dir, tmp_path, 80))
    assert "some.jsonl: 80 rows read, 80 kept" in printed
    assert "in both: 0" in printed
    assert "(n = 16)" in printed  # a fifth is held out
    adapter = tmp_path / "runs" / folder / "adapter"
    assert (adapter / "adapter_model.safetensors").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["multiple_choice", "sft"])
def test_lesson_three_mixes_real_rows_under_either_objective(
    data_dir: Path, tmp_path: Path, objective: str
) -> None:
    variables = first_rows(data_dir, tmp_path, 120)
    variables["MATHSFT_OBJECTIVE"] = objective
    printed = run("03_mathqa_mixing.ipynb", tmp_path, variables)
    assert "mathqa.json: 240 rows read, 239 kept" in printed
    assert "some.jsonl: 120 rows read, 120 kept" in printed
    assert "(n = 47)" in printed  # a fifth of the MathQA rows
    kept = json.loads((tmp_path / "runs" / "03_mixing" / "results.json").read_text())
    assert len(kept) == 6
    assert {run["objective"] for run in kept} == {objective}
    steps = sorted(run["steps"] for run in kept)
    assert steps[0] == steps[1] // 2
    assert len(set(steps[1:])) == 1


@pytest.mark.slow
def test_lesson_four_evaluates_real_rows_and_makes_what_it_does_not_find(
    data_dir: Path, tmp_path: Path
) -> None:
    variables = first_rows(data_dir, tmp_path, 30)
    printed = run("04_evaluation.ipynb", tmp_path, variables)
    assert "found: none" in printed
    assert "(n = 12)" in printed  # a fifth of the rows
    assert "mathqa_file_clean" in printed
    results = (path.name for path in (tmp_path / "runs" / "results").glob("*.mathqa_file.*json"))
    assert {"base", "sft", "mathqa"} <= {name.partition(".")[0] for name in results}
    assert "not ours" in (tmp_path / "runs" / "report.html").read_text().lower()
