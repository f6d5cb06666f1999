"""Wait until a server answers: with an end to the waiting, and an eye on its process."""

import time
from pathlib import Path
from subprocess import Popen
from typing import Any

import httpx

from mathsft.checks import ABOVE_0, check_number
from mathsft.generation.server_forms import ServerError, address_of, client_of

_LINES = 15  # of the end of a log, which an error shows


def wait_until_ready(
    base_url: str,
    *,
    timeout: float = 600.0,
    process: "Popen[Any] | None" = None,
    log: str | Path | None = None,
    poll: float = 0.5,
) -> None:
    """Return once the server is ready, or raise; it never waits longer than ``timeout``.

    A server is ready if ``/health`` answers 200, or ``/v1/models`` if there is no ``/health``.
    vLLM, SGLang and ``transformers serve`` have both.

    Args:
        base_url: the server's address, with or without ``/v1``.
        timeout: seconds to wait. A large model takes minutes to load.
        process: the server's process, if this program started it. Once it has ended, there is
            nothing to wait for.
        log: the file that the process writes; an error shows its end.
        poll: seconds between two requests.

    Raises:
        ValueError: an impossible number or address.
        ServerError: the process has ended, or the time is over; with what was last answered, and
            the end of the log.
    """
    check_number("timeout", timeout, ABOVE_0)
    check_number("poll", poll, ABOVE_0)
    address = address_of(base_url)
    end = time.monotonic() + timeout
    last = "nothing answered"
    with client_of(address, timeout=min(5.0, timeout)) as client:
        while True:
            _check_running(process, log)
            told = _answer(client)
            if told is None:
                # What answers could be another server, if ours has ended because of it.
                return _check_running(process, log)
            last = told
            left = end - time.monotonic()
            if left <= 0:
                raise ServerError(
                    f"{address} was not ready after {timeout:g} seconds ({last}). Give a longer "
                    f"timeout, or look at its log{_end_of(log)}"
                )
            time.sleep(min(poll, left))


def _answer(client: httpx.Client) -> str | None:
    """None if the server is ready; else what it said."""
    told = ""
    for path in ("/health", "/v1/models"):
        try:
            status = client.get(path).status_code
        except httpx.HTTPError as error:
            return f"{type(error).__name__}: {error}"
        if status == 200:
            return None
        told = f"{path} answered {status}"
        if status not in (404, 405, 501):  # such as 503: it is there, and still loading
            return told
    return told


def _check_running(process: "Popen[Any] | None", log: str | Path | None) -> None:
    if process is not None and (status := process.poll()) is not None:
        raise ServerError(
            f"the server ended with status {status} before it was ready{_end_of(log)}"
        )


def _end_of(log: str | Path | None) -> str:
    """The end of a log as a part of a message; "" if there is none."""
    if log is None or not Path(log).is_file():
        return ""
    with Path(log).open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - 20_000))
        lines = file.read().decode(errors="replace").rstrip().splitlines()
    shown = "\n".join(lines[-_LINES:])
    return f". The end of {log}:\n{shown}" if shown else f". {log} is empty"
