"""Python scripts in processes of their own that need not import torch: a server forks them.

Importing torch, transformers and TRL takes a process as long as a short training run. Scripts whose
imports or memory are tested need a new interpreter: `subprocess`.
"""

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from functools import cache
from multiprocessing import forkserver
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

_HERE = Path(__file__).parent
PRELOAD = ["preloaded", "survival", "bitsandbytes"]


@cache
def server() -> Any:
    """The server, started once for each process of pytest."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    with pytest.MonkeyPatch.context() as patch:
        path = os.pathsep.join(filter(None, [str(_HERE), os.environ.get("PYTHONPATH")]))
        patch.setenv("PYTHONPATH", path)
        forkserver.ensure_running()
    return context


def run_script(
    script: Path, *options: str, timeout: float = 600, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a script as ``python script options``.

    Python scripts that it runs with `subprocess.check_output` are forked from it. So the memory
    that a process finds for itself includes what was imported for all.
    """
    with tempfile.TemporaryDirectory() as folder:
        streams = [Path(folder) / name for name in ("stdout", "stderr")]
        arguments = [str(script), *options]
        process = server().Process(
            target=_run, args=(arguments, {**os.environ, **environment}, streams)
        )
        process.start()
        process.join(timeout)
        if process.is_alive():
            process.kill()
            raise subprocess.TimeoutExpired(arguments, timeout)
        stdout, stderr = (path.read_text(encoding="utf-8") for path in streams)
        return subprocess.CompletedProcess(arguments, process.exitcode, stdout, stderr)


def _run(arguments: Sequence[str], environment: Mapping[str, str], streams: Sequence[Path]) -> None:
    for number, path in enumerate(streams, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    sys.stdout, sys.stderr = (os.fdopen(n, "w", encoding="utf-8", closefd=False) for n in (1, 2))
    os.environ.clear()
    os.environ.update(environment)
    with mock.patch.object(subprocess, "check_output", _forked_output):
        _main(arguments)


def _main(arguments: Sequence[str]) -> None:
    sys.argv = list(arguments)
    sys.path.insert(0, str(Path(arguments[0]).parent))
    try:
        runpy.run_path(arguments[0], run_name="__main__")
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def _forked_output(command: Sequence[str], *, text: bool, stderr: int | None = None) -> str:
    """`subprocess.check_output` for a command of this interpreter."""
    executable, *arguments = command
    assert executable == sys.executable
    assert text
    sys.stdout.flush()
    with tempfile.TemporaryFile("w+", encoding="utf-8") as printed:
        if (child := os.fork()) == 0:
            status = 1
            try:
                os.dup2(printed.fileno(), 1)
                _main(arguments)
                status = 0
            except SystemExit as end:
                status = end.code if isinstance(end.code, int) else int(end.code is not None)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        printed.seek(0)
        output = printed.read()
    if status:
        raise subprocess.CalledProcessError(status, command, output)
    return output
