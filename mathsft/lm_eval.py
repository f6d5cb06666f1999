"""lm-evaluation-harness's own command line, which also knows our model and our tasks.

    python -m mathsft.lm_eval --model mathsft \
        --model_args pretrained=Qwen/Qwen2.5-0.5B,peft=runs/01_sft/adapter \
        --tasks mathqa --output_path results --log_samples

The flags are the harness's. It finds models in its own list, and a package can add to that list
only from inside the process; this module does so. Our tasks (``mathqa_tiny``,
``mathqa_file`` and the clean readings) are included unless ``--include_path`` is given.
Under torchrun the processes divide the questions.

``--use_cache`` is refused: the harness's cache knows requests, not models (``mathsft evaluate
--use_cache`` hashes the model as well), and so is ``--cache_requests``, which unpickles. Task files
that would run code, in ``--tasks`` and ``--include_path``, need ``--trust_task_code``
(`mathsft.evaluation.task_code`).
"""

import argparse
import sys
from collections.abc import Iterator, Mapping
from glob import glob
from pathlib import Path
from typing import Any

from lm_eval.__main__ import cli_evaluate

from mathsft.checks import load_yaml
from mathsft.evaluation import harness  # noqa: F401 (registers the model)
from mathsft.evaluation.requests import boxed_templates, shared_out
from mathsft.evaluation.task_code import check_task_files
from mathsft.evaluation.task_files import TASKS, is_file
from mathsft.files import read_text

_REFUSED = {
    "use_cache": "the harness's cache does not know which model answered, so another model would "
    "get this one's answers. Use mathsft evaluate --use_cache, or leave it out",
    "cache_requests": "the harness unpickles this cache, which can run code. Leave it out: making "
    "the requests takes little time",
}


def main() -> None:
    """Check the arguments, and pass them on to the harness."""
    parser = argparse.ArgumentParser(add_help=False)  # it takes beginnings of names, as theirs does
    parser.add_argument("--tasks", "-t", nargs="*")
    parser.add_argument("--config", "-C")
    parser.add_argument("--use_cache", "-c")
    parser.add_argument("--cache_requests", nargs="?", const="true")
    parser.add_argument("--include_path")
    own = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    own.add_argument("--trust_task_code", nargs="?", const="true", choices=["true", "false"])
    trust, given = own.parse_known_args(sys.argv[1:])
    said = vars(parser.parse_known_args(given)[0])
    try:
        read = {}
        if said["config"]:
            read = load_yaml(read_text(said["config"]), said["config"])
        if not isinstance(read, dict):
            raise ValueError(f"{said['config']}: expected options and their values")
        for found in (said, read):
            _check(found, trusted=trust.trust_task_code == "true")
    except (ValueError, OSError) as error:
        sys.exit(str(error))
    if given and not (said["include_path"] or read.get("include_path")):
        given += ["--include_path", str(TASKS)]
    sys.argv = [sys.argv[0], *given]
    with shared_out(), boxed_templates():
        cli_evaluate()


def _check(found: Mapping[str, Any], *, trusted: bool) -> None:
    """Raise ValueError for a cache, and for task files that would run code."""
    for name, why in _REFUSED.items():
        if found.get(name):
            raise ValueError(f"--{name}: {why}")
    check_task_files(_task_files(found), trusted=trusted)


def _task_files(found: Mapping[str, Any]) -> Iterator[str]:
    """The task files that the harness would read, as it finds them."""
    tasks, paths = found.get("tasks") or [], found.get("include_path") or []
    for some in [tasks] if isinstance(tasks, str) else tasks:
        if not isinstance(some, str):
            raise ValueError(f"tasks: {some!r:.80}: give a task's name or its file")
        for task in some.split(","):
            if Path(task).is_dir():
                yield from glob(str(Path(task) / "*.yaml"))
            elif is_file(task):
                yield from glob(task)
    for path in [paths] if isinstance(paths, str) else paths:
        yield from map(str, Path(path).rglob("*.yaml"))


if __name__ == "__main__":
    main()
