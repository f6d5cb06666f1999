"""The lessons over a file of real problems, as a user runs them: MATHSFT_SOURCE, nothing else."""

import os
import subprocess
import sys
from itertools import islice
from pathlib import Path

import nbformat
import pytest

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "run"), [("01_sft.ipynb", "01_sft"), ("02_multiple_choice.ipynb", "02_choices")]
)
def test_a_lesson_runs_on_gsm8k_rows(data_dir: Path, tmp_path: Path, name: str, run: str) -> None:
    with open(data_dir / "gsm8k" / "train.jsonl", encoding="utf-8") as rows:
        (tmp_path / "some.jsonl").write_text("".join(islice(rows, 120)), encoding="utf-8")
    environment = os.environ | {
        "MATHSFT_SOURCE": str(tmp_path / "some.jsonl"),
        "MATHSFT_RUNS": str(tmp_path / "runs"),
        "MATHSFT_PROFILE": "tiny",
        "PYTHONPATH": str(NOTEBOOKS.parent),
    }
    command = ["-m", "nbconvert", "--to", "notebook", "--execute", "--output-dir", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, *command, str(NOTEBOOKS / name)],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    book = nbformat.read(tmp_path / name, 4)
    printed = "".join(
        output.text
        for cell in book.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if output.output_type == "stream"
    )
    assert "some.jsonl: 120 rows read, 120 kept" in printed
    assert "in both: 0" in printed
    assert "(n = 24)" in printed  # a fifth is held out
    assert (tmp_path / "runs" / run / "adapter" / "adapter_model.safetensors").is_file()
