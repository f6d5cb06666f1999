"""A hub on this machine with what the recipes name: models, GSM8K and MathQA.

Each model is the embedded one under another name (the same architecture, but small). The rows
are made up, in the real schemas.
"""

import shutil
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from hub import LocalHub

from mathsft.data.synthetic.grade_school import tiny_gsm_rows
from mathsft.data.synthetic.multiple_choice import tiny_mathqa_rows
from mathsft.models.model_files import TINY


def stock(hub: LocalHub, models: Iterable[str]) -> LocalHub:
    """Add the data sets and the named models to the hub."""
    for name in models:
        folder = hub.folder("models", name)
        for path in Path(TINY).iterdir():
            if path.suffix in (".json", ".safetensors"):
                shutil.copy(path, folder)
    gsm8k = hub.folder("datasets", "openai/gsm8k")
    mathqa = hub.folder("datasets", "regisss/math_qa") / "data"
    mathqa.mkdir()
    (gsm8k / "main").mkdir()

    def write(rows: list[dict[str, str]], path: Path) -> None:
        pq.write_table(pa.Table.from_pylist(rows), path)

    for split, rows in {"train": 300, "test": 60}.items():
        write(tiny_gsm_rows(split, rows), gsm8k / "main" / f"{split}-00000-of-00001.parquet")
    for split, rows in {"train": 600, "validation": 200, "test": 80}.items():
        write(tiny_mathqa_rows(split, rows), mathqa / f"{split}-00000-of-00001.parquet")
    (gsm8k / "README.md").write_text(
        "---\nconfigs:\n- config_name: main\n  data_files:\n  - split: train\n"
        "    path: main/train-*\n  - split: test\n    path: main/test-*\n---\n"
    )
    return hub
