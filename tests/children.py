"""A child process that does something to files while the test looks, or is killed at it."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

_FORK = multiprocessing.get_context("fork")  # the child has everything imported already


@contextmanager
def child(work: Callable[[Any], None]) -> Iterator[Any]:
    """Run ``work(pipe)`` in a child; the block gets the process, with its ``.pipe``."""
    ours, theirs = _FORK.Pipe()
    process: Any = _FORK.Process(target=work, args=(theirs,), daemon=True)
    process.start()
    theirs.close()
    process.pipe = ours
    try:
        yield process
    finally:
        process.kill()
        process.join()


def killed_at_call(function: str, number: int, work: Callable[[], Any], patch: Any) -> None:
    """Do the work in a child that is killed when it calls ``os.FUNCTION`` for the n-th time."""
    real, calls = getattr(os, function), []

    def deadly(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        if len(calls) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **kwargs)

    def run(pipe: Any) -> None:
        patch.setattr(os, function, deadly)
        work()

    with child(run) as process:
        process.join(60)
        assert process.exitcode == -signal.SIGKILL, f"os.{function} was called {len(calls)} times"
