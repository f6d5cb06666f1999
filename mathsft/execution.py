"""Execute notebooks, some of them at once, and save them with their outputs."""

import asyncio
import os
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mathsft.device import default_profile
from mathsft.files import write_whole
from mathsft.settings import runs_folder


@dataclass(frozen=True)
class Executed:
    """What became of the notebooks of one call, by name."""

    minutes: dict[str, float] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


def execute_notebooks(
    notebooks: Mapping[str, Path],
    output_dir: Path,
    *,
    timeout: int,
    workers: int,
    after: Mapping[str, Sequence[str]],
) -> Executed:
    """Execute notebooks and save each as ``output_dir/NAME.ipynb``; lines say which, and how long.

    Args:
        notebooks: name and file of each. The files do not change.
        output_dir: exists.
        timeout: seconds that one cell may take.
        workers: how many run at once. If several do, each uses one thread (``OMP_NUM_THREADS``, if
            it is not set).
        after: for the name of a notebook, those of this call that have to be finished before.

    After a failure the notebooks that run finish, and no other starts. A failing notebook is saved
    with the outputs so far, and its traceback is in the result.
    """
    run = _Run(notebooks, output_dir, timeout, workers, after)
    with _bar(sum(map(_code_cells, notebooks.values()))) as run.bar:
        _in_own_loop(run.all())
    return run.executed


@dataclass
class _Run:
    notebooks: Mapping[str, Path]
    output_dir: Path
    timeout: int
    workers: int
    after: Mapping[str, Sequence[str]]
    bar: Any = None
    executed: Executed = field(default_factory=Executed)

    async def all(self) -> None:
        free = asyncio.Semaphore(self.workers)
        finished = {name: asyncio.Event() for name in self.notebooks}

        async def in_turn(name: str) -> None:
            for other in self.after.get(name, ()):
                if other in finished:
                    await finished[other].wait()
            async with free:
                if not self.executed.failed:
                    await self.one(name)
            finished[name].set()

        await asyncio.gather(*(in_turn(name) for name in self.notebooks))

    async def one(self, name: str) -> None:
        self.say(f"{name} starts …")
        began = time.perf_counter()
        page = self.output_dir / f"{name}.ipynb"
        threads = {"OMP_NUM_THREADS": "1"} if self.workers > 1 else {}
        failed = await _execute(
            self.notebooks[name], page, self.timeout, threads | os.environ, self.bar.update
        )
        minutes = self.executed.minutes[name] = (time.perf_counter() - began) / 60
        if failed:
            self.executed.failed[name] = failed
        count = f"{len(self.executed.minutes)} of {len(self.notebooks)}"
        how = "stopped after" if failed else "took"
        self.say(f"{name} {how} {minutes:.1f} minutes ({count}): {page}")

    def say(self, line: str) -> None:
        self.bar.write(line, file=sys.stdout)
        sys.stdout.flush()


async def _execute(
    notebook: Path,
    page: Path,
    timeout: int,
    environment: Mapping[str, str],
    more: Callable[[], Any],
) -> str:
    """Execute and save a notebook; return the traceback of a cell that failed, or ""."""
    # Importing the kernel, here and in its own process, would print a warning on frozen modules.
    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    book = nbformat.read(notebook, as_version=4)
    client = NotebookClient(
        book,
        timeout=timeout,
        kernel_name="python3",
        resources={"metadata": {"path": str(notebook.parent)}},
        extra_arguments=["--log-level=ERROR"],  # no warnings about the kernel's transport
        on_cell_executed=lambda **_: more(),
    )
    # Kernels start beside the notebook; runs and recipe are the ones of this process.
    places = {"MATHSFT_RUNS": str(runs_folder().resolve())}
    profile = default_profile()
    if Path(profile).is_file():
        places["MATHSFT_PROFILE"] = str(Path(profile).resolve())
    try:
        await client.async_execute(env={**environment, **places})
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        return str(error)
    finally:
        write_whole(page, nbformat.writes(book))
    return ""


def _in_own_loop(work: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine in a thread with its own event loop, so that this works in a notebook too.

    Ctrl-C cancels it and waits until its kernels are stopped: in the main thread, nbclient would
    take the signal for one kernel only.
    """
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def rest() -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    try:
        asyncio.run_coroutine_threadsafe(work, loop).result()
    finally:
        asyncio.run_coroutine_threadsafe(rest(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@contextmanager
def _bar(cells: int) -> Iterator[Any]:
    from tqdm.auto import tqdm

    # disable=None: a bar of cells in a terminal, and none in a log file.
    with tqdm(total=cells, unit="cell", leave=False, disable=None) as bar:
        yield bar


def _code_cells(notebook: Path) -> int:
    import nbformat

    cells = nbformat.read(notebook, as_version=4).cells
    return sum(cell.cell_type == "code" for cell in cells)
