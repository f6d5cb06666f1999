"""The tests that need a CUDA device. To run them, set CUDA_VISIBLE_DEVICES to a device:

CUDA_VISIBLE_DEVICES=0 pytest tests/gpu -s
"""

from pathlib import Path
from typing import Any

import pytest
import torch

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[Any]) -> None:
    for item in items:
        if HERE not in Path(item.path).parents:
            continue
        item.add_marker(pytest.mark.gpu)
        if not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(scope="session")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights at the shape of Qwen2.5-0.5B, with the tiny model's tokenizer."""
    from gpu_work import save_qwen

    return save_qwen(tmp_path_factory.mktemp("qwen"))
