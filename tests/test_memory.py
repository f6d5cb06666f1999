"""`free_memory` releases what a notebook holds after an error, and nothing that has a name."""

import nbformat
import pytest
from nbclient import NotebookClient

CELLS = [
    """
import weakref
import torch
from mathsft import free_memory

class Held(torch.nn.Linear):
    pass

alive = []

def a_step():
    activations = Held(2, 2)
    alive.append(weakref.ref(activations))
    try:
        raise ValueError("the first one")
    except ValueError as first:
        inner = Held(2, 2)
        alive.append(weakref.ref(inner))
        raise RuntimeError("CUDA out of memory, say") from first
""",
    "a_step()",
    "named, shown = Held(2, 2), Held(2, 2)\nalive += map(weakref.ref, (named, shown))\nshown",
    "del shown\nimport gc; gc.collect()\nprint('before', [r() is not None for r in alive])",
    "free_memory()\nprint('after', [r() is not None for r in alive])",
    "a_step()",
    "free_memory()\nprint('again', [r() is not None for r in alive[4:]])",
]


@pytest.mark.slow
def test_after_an_error_in_a_notebook_free_memory_releases_its_variables() -> None:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in CELLS])
    NotebookClient(notebook, kernel_name="python3", allow_errors=True, timeout=120).execute()
    printed = "".join(
        output["text"] for cell in notebook.cells for output in cell.outputs if "text" in output
    )
    assert "before [True, True, True, True]" in printed  # otherwise the test shows nothing
    assert "after [False, False, True, False]" in printed
    assert "again [False, False]" in printed
    assert "GB before" in printed
