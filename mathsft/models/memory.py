"""How much memory the process, or its GPU, has used."""

import resource
import sys

import torch


def memory_gb() -> tuple[float, float]:
    """``(now, peak)`` in GB (1e9 bytes): of tensors on the GPU, or of the whole process on a CPU.

    The peak counts from the start of the process (on a GPU: from the last call of
    ``torch.cuda.reset_peak_memory_stats``).
    """
    if torch.cuda.is_available():
        return torch.cuda.memory_allocated() / 1e9, torch.cuda.max_memory_allocated() / 1e9
    import psutil

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    unit = 1 if sys.platform == "darwin" else 1024  # bytes on macOS, KiB on Linux
    return psutil.Process().memory_info().rss / 1e9, peak * unit / 1e9
