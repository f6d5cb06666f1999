"""The tests that need a CUDA device. To run them, set CUDA_VISIBLE_DEVICES to a device:

CUDA_VISIBLE_DEVICES=0 pytest tests/gpu -s
"""

import gc
from collections.abc import Iterator
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


@pytest.fixture(autouse=True)
def clean_gpu() -> Iterator[None]:
    """Each test starts with an empty GPU, and must leave it as it found it."""
    if not torch.cuda.is_available():
        yield
        return
    gc.collect()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    yield
    gc.collect()
    torch.cuda.empty_cache()
    # Below a layer's weights: libraries keep small tensors, such as the workspace of cuBLAS.
    left = torch.cuda.memory_allocated() - before
    assert left < 50e6, f"the test leaves {left / 1e9:.2f} GB on the GPU"


@pytest.fixture(scope="session")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights at the shape of Qwen2.5-0.5B, with the tiny model's tokenizer."""
    from gpu_work import save_qwen

    return save_qwen(tmp_path_factory.mktemp("qwen"))
