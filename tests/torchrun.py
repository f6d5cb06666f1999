"""Several real processes: what `torchrun` starts."""

import os
import subprocess
import sys
from pathlib import Path

_HERE = Path(__file__).parent


def command(*arguments: object, processes: int = 2, launch: tuple[str, ...] = ()) -> list[str]:
    """torchrun's command line; ``launch`` goes to torchrun, ``arguments`` name the script.

    Not ``accelerate launch --cpu``, which always starts one process.
    """
    where = launch or ("--standalone",)
    start = [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={processes}"]
    return [*start, *where, *map(str, arguments)]


def environment() -> dict[str, str]:
    """Return an environment with one thread a process and the tests' own modules on the path."""
    path = os.pathsep.join(filter(None, [str(_HERE), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": ""}


def torchrun(*arguments: object, processes: int = 2, timeout: float = 900) -> str:
    """Run a script, or ``-m`` and a module, in several processes; return what they printed.

    stderr is left out, because progress bars may break the lines of another process. If a
    process fails, the error shows both streams.
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
