"""What a notebook keeps of progress: at most one line of text for each cell, and nothing pink."""

import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from mathsft.bars import in_notebook, progress

_START = "import time; from mathsft.bars import progress; from mathsft import exercise"
_NESTED = """
with progress(total=2, desc="outer", delay=-1) as bar:
    for _ in range(2):
        for _ in progress(range(3), desc="inner", delay=-1): pass
        bar.update()
for _ in progress(range(4), desc="later", delay=-1): pass
"""
_TRAINING = """
rows = load_problems("tiny-gsm", split="train", limit=16)
model, tokenizer = load_model("tiny", lora=True)
trainer = sft_trainer(model, tokenizer, rows, eval_problems=rows, output_dir={folder!r},
                      max_steps=2, eval_strategy="steps", eval_steps=1)
trainer.train();
trainer.evaluate();
"""
_OTHERS = """
from transformers import Trainer, TrainingArguments
arguments = TrainingArguments({folder!r}, report_to="none", use_cpu=True)
kinds = [type(c).__name__ for c in Trainer(model, arguments).callback_handler.callbacks]
print("TrainingLine" in kinds, "NotebookProgressCallback" in kinds)
"""


def outputs(*cells: str) -> list[list[dict]]:
    """Run the cells in a real kernel; the outputs of each."""
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    client = NotebookClient(book, kernel_name="python3", extra_arguments=["--log-level=ERROR"])
    client.execute(env={**os.environ, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""})
    return [cell.outputs for cell in book.cells]


def test_a_terminal_has_tqdms_own_bar(capsys: pytest.CaptureFixture[str]) -> None:
    assert not in_notebook()
    assert list(progress(range(3), desc="rows")) == [0, 1, 2]
    assert "rows:" in capsys.readouterr().err


def test_a_cell_keeps_one_line_of_its_bars_and_a_check_or_short_work_none() -> None:
    short = "for _ in progress(range(9), desc='short'): pass"
    check = "with exercise(1):\n    for _ in progress(range(9), desc='checked', delay=-1): pass"
    late = "with progress(total=9, desc='slow') as bar: time.sleep(2.1); bar.update(7)"
    failing = "for _ in progress(range(9), desc='error', delay=-1): 1 / 0"
    cells = (_START, _NESTED, short, check, late, f"try:\n  {failing}\nexcept Exception: pass")
    shown = outputs(*cells, _NESTED)[1:]
    texts = [[output["data"]["text/plain"] for output in some] for some in shown]
    assert texts[:4] == [["later: 4 of 4"], [], ["Exercise 1: solved"], ["slow: 7 of 9"]]
    assert [len(text) for text in texts[4:]] == [1, 1]
    assert texts[5] == ["later: 4 of 4"]


@pytest.mark.slow
def test_training_in_a_notebook_keeps_a_line_and_no_table_and_nothing_pink(
    tmp_path: Path,
) -> None:
    folder = str(tmp_path / "run")
    start = "from mathsft import quiet\nquiet()\nfrom mathsft import *"
    training = _TRAINING.format(folder=folder)
    first, shown, others = outputs(start, training, _OTHERS.format(folder=folder))
    assert not first
    assert {output.get("name", "stdout") for output in [*shown, *others]} == {"stdout"}
    lines = [output["data"]["text/plain"] for output in shown if "data" in output]
    assert lines == ["training: 2 of 2"]
    assert others[0]["text"] == "True False\n"
