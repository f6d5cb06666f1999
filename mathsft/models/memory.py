"""How much memory the process, or its GPU, uses; and freeing memory that is no longer needed."""

import gc
import sys
import traceback

import torch


def memory_gb() -> tuple[float, float]:
    """Return ``(now, peak)`` in GB (1e9 bytes): tensors on the GPU, or the process on a CPU.

    The peak counts from the start of the process (on a GPU: from the last call of
    ``torch.cuda.reset_peak_memory_stats``).
    """
    if torch.cuda.is_available():
        return torch.cuda.memory_allocated() / 1e9, torch.cuda.max_memory_allocated() / 1e9
    import psutil

    used = psutil.Process().memory_info()
    if sys.platform == "win32":
        return used.rss / 1e9, used.peak_wset / 1e9
    import resource  # Unix alone has it

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    unit = 1 if sys.platform == "darwin" else 1024  # bytes on macOS, KiB on Linux
    return used.rss / 1e9, peak * unit / 1e9


def free_memory() -> None:
    """Free memory that a notebook holds without showing it, and print how much is in use.

    After an error, such as out of memory, the traceback keeps every local variable alive:
    batch, activations, model. A notebook also keeps what cells showed (``Out``). This function
    releases both, and returns a GPU's cached blocks.

    It cannot free an object that still has a name (run ``del model, trainer`` first; a trainer
    holds its model and the optimiser's state), nor one that another library holds. A training run
    leaves no weight in such a place: what transformers registers with bitsandbytes for it is taken
    back when it ends. But the states of bitsandbytes' paged optimisers (``optim="paged_…"``) are
    never returned on a GPU, in tensors of 100,000 numbers or more: only the end of the process
    frees them. Half a GB or so belongs to CUDA itself.
    """
    before, _ = memory_gb()
    errors = [getattr(sys, name, None) for name in ("last_exc", "last_value")]
    while errors:
        error = errors.pop()
        if isinstance(error, BaseException) and error.__traceback__ is not None:
            traceback.clear_frames(error.__traceback__)
            error.__traceback__ = None
            errors += [error.__cause__, error.__context__]
    for name in ("last_exc", "last_type", "last_value", "last_traceback"):
        if hasattr(sys, name):
            delattr(sys, name)
    _free_notebook()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    print(f"memory: {before:.2f} GB before, {memory_gb()[0]:.2f} GB now")


def _free_notebook() -> None:
    """Remove IPython's references to the last traceback, and to what cells showed."""
    if "IPython" not in sys.modules:
        return
    from IPython import get_ipython  # type: ignore[attr-defined]

    shell = get_ipython()
    if shell is None:
        return
    for printer in (shell.InteractiveTB, shell.SyntaxTB):
        printer.tb = printer.etype = printer.value = None
    if shell.displayhook.do_full_cache:
        shell.displayhook.flush()
    for names in (shell.user_ns, shell.user_ns_hidden):
        names.update(dict.fromkeys(("_", "__", "___"), ""))
