"""Several real processes: what `torchrun` starts."""

import os
import subprocess
import sys
from pathlib import Path

_HERE = Path(__file__).parent


def command(*arguments: object, processes: int = 2, launch: tuple[str, ...] = ()) -> list[str]:
    """torchrun's command line; ``launch`` goes to torchrun, ``arguments`` name the script.

    Not ``accelerate launch --cpu``, which starts one process however many are asked for.
    """
    where = launch or ("--standalone",)
    start = [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={processes}"]
    return [*start, *where, *map(str, arguments)]


def environment() -> dict[str, str]:
    """One thread a process, and the tests' own modules at hand."""
    path = os.pathsep.join(filter(None, [str(_HERE), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": ""}


def torchrun(*arguments: object, processes: int = 2, timeout: float = 240) -> str:
    """Run a script, or ``-m`` and a module, in that many processes; what all of them printed.

    Without their errors' stream, whose progress bars may end amid a line of the others. Fails
    with both where a process does.
    """
    done = subprocess.run(
        command(*arguments, processes=processes),
        env=environment(),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return done.stdout
