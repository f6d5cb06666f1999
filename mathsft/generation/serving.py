"""Start a server for a model, and stop this server again, and nothing else."""

import os
import shlex
import signal
import socket
import string
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import resources
from pathlib import Path
from typing import Any

import psutil

from mathsft.checks import unknown_name
from mathsft.files import check_regular, write_whole
from mathsft.generation.health import wait_until_ready
from mathsft.in_use import claimed_file
from mathsft.processes import say

_GRACE = 20.0  # seconds that a server has to end by itself


def serve_command(serve: str, *, model: str | Path, port: int) -> list[str]:
    """The command that serves ``model`` at ``port``.

    Args:
        serve: a recipe's name (`serve_recipes`), or a command with ``{model}`` and ``{port}``, such
            as ``"transformers serve {model} --port {port}"``. It is no shell's: no pipes, and no
            variables.
        model: a folder or a hub name.
        port: where it answers, on this machine.

    Raises ValueError for a recipe that is not there, or a command without one of the two.
    """
    known = serve_recipes()
    if serve in known:
        return ["bash", str(known[serve]), str(model), str(port)]
    try:
        parts = shlex.split(serve)
        named = {key for part in parts for _, key, *_ in string.Formatter().parse(part)}
    except ValueError as error:
        raise ValueError(f"serve={serve!r}: not a command ({error})") from None
    if len(parts) <= 1 and named <= {None}:
        raise ValueError(f"{unknown_name('serve recipe', serve, known)}; or give a command")
    if named - {None} != {"model", "port"}:
        raise ValueError(
            f"serve={serve!r}: the command needs {{model}} and {{port}}, once or more, and nothing "
            "else in braces: which model it serves, and where"
        )
    return [part.format(model=model, port=port) for part in parts]


def serve_recipes() -> dict[str, Path]:
    """The shipped scripts that start a server, by name; they take a model and a port."""
    folder = Path(str(resources.files("mathsft.recipes"))) / "serve"
    return {path.stem: path for path in sorted(folder.glob("*.sh"))}


def search_path() -> str:
    """Where a server's program is looked for: ``PATH``, after this Python's own environment.

    So its programs are found also if it is not activated.
    """
    own = str(Path(sys.executable).parent)
    return os.pathsep.join([own, *filter(None, [os.environ.get("PATH")])])


@contextmanager
def serving(
    serve: str, *, model: str | Path, log: str | Path, timeout: float = 600.0
) -> Iterator[str]:
    """Start a server for ``model`` on a free port, wait until it is ready, and yield its address.

    In the end this server is stopped, with the processes that it has started: they are a process
    group of their own. No other process is touched. If this program is killed, the next call with
    the same ``log`` stops what it left. The server has this process's environment, so
    ``CUDA_VISIBLE_DEVICES`` says which GPUs it may use.

    Args:
        serve: as of `serve_command`.
        model: a folder or a hub name.
        log: the file that gets what the server writes; an old one is replaced.
        timeout: seconds until it must be ready (`wait_until_ready`).

    Raises:
        ValueError: what `serve_command` raises; another program serves with this log.
        OSError: the program is not there, or the log cannot be written.
        ServerError: it ended, or was not ready in time, with the end of the log.
    """
    port = _free_port()
    command = serve_command(serve, model=model, port=port)
    note = Path(log).with_suffix(".pid")
    check_regular(log)
    check_regular(note)
    with claimed_file(log, device=None), _ended_in_order(), Path(log).open("wb") as file:
        _stop_left_over(note)  # it is no running program's: that one would hold the log
        try:
            process: subprocess.Popen[Any] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, "PATH": search_path()},
            )
        except FileNotFoundError as error:
            raise FileNotFoundError(f"serve: there is no program {command[0]!r}") from error
        try:
            write_whole(note, f"{process.pid} {psutil.Process(process.pid).create_time()}")
            address = f"http://127.0.0.1:{port}"
            wait_until_ready(address, timeout=timeout, process=process, log=log)
            yield address
        finally:
            _stop(process)
            note.unlink(missing_ok=True)


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
    return port


def _stop(process: "subprocess.Popen[Any]") -> None:
    """End the process and its group, whose number is its own, because it began a session."""
    if process.returncode is None:
        _signal(process.pid, signal.SIGTERM)
        end = time.monotonic() + _GRACE
        # It is not reaped yet, so its number cannot become another process's.
        while os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            if time.monotonic() > end:
                break
            time.sleep(0.05)
    _signal(process.pid, signal.SIGKILL)
    process.wait()


def _signal(group: int, how: signal.Signals) -> None:
    with suppress(ProcessLookupError):  # all have ended
        os.killpg(group, how)


def _stop_left_over(note: Path) -> None:
    """Stop the server that this file names, if it still runs: its own program was killed."""
    try:
        number, began = note.read_text(encoding="utf-8").split()
        left = psutil.Process(int(number))
        if left.create_time() != float(began):  # the number is another process's by now
            return
    except (OSError, ValueError, OverflowError, psutil.Error):
        return
    say(f"process {number}, a server that an interrupted run has left, is stopped")
    _signal(left.pid, signal.SIGTERM)
    with suppress(psutil.TimeoutExpired):
        left.wait(_GRACE)
    if left.is_running():  # still the same process, not its number alone
        _signal(left.pid, signal.SIGKILL)


@contextmanager
def _ended_in_order() -> Iterator[None]:
    """Let SIGTERM (a job that is cancelled) end the program by an exception, so servers stop."""

    def leave(number: int, _: Any) -> None:
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set it
        return
    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
