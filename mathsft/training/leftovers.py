"""A training that fails before its first step leaves no folder that looks like a run."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mathsft.record import CONFIG, ENVIRONMENT


@contextmanager
def nothing_left(
    folder: str | Path, *, made: bool | None = None, begun: Callable[[], bool] = lambda: False
) -> Iterator[None]:
    """If the block fails before training has begun, remove what it has put into the folder.

    That is the record of a run (`mathsft.record`), if it was not there before, and the folder, if
    nothing else is in it. A tracker's files stay.

    Args:
        folder: the run's folder.
        made: whether it was made for this run; default: whether it does not exist yet.
        begun: says, after a failure, whether there was a step.
    """
    folder = Path(folder)
    made = not folder.exists() if made is None else made
    new = [path for path in (folder / CONFIG, folder / ENVIRONMENT) if not path.exists()]
    try:
        yield
    except BaseException:  # an interrupt too
        if not begun():
            for path in new:
                with suppress(OSError):  # the folder is a file, or read-only: that is the error
                    path.unlink(missing_ok=True)
            if made:
                with suppress(OSError):  # something else is in it
                    folder.rmdir()
        raise
