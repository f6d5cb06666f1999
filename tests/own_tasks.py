"""A task file over rows of its own, for tests of task files."""

import json
from pathlib import Path

ROWS = [{"q": f"what is {n} + 1 ?", "choices": [str(n + 1), str(n)], "right": 0} for n in range(6)]
LINES = {
    "output_type": "multiple_choice",
    "test_split": "test",
    "doc_to_text": '"{{q}}"',
    "doc_to_choice": '"{{choices}}"',
    "doc_to_target": "right",
}


def task_file(folder: Path, name: str = "mine", **changes: str) -> Path:
    """A task file over rows of its own; ``changes`` are lines of YAML, and "" leaves one out."""
    rows = folder / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    data = {"dataset_path": "json", "dataset_kwargs": f"{{data_files: {{test: {rows}}}}}"}
    lines = {"task": name, **data, **LINES, **changes}
    path = folder / f"{name}.yaml"
    path.write_text("".join(f"{key}: {value}\n" for key, value in lines.items() if value))
    return path
