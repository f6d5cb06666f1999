"""Record in a run's folder what made it: settings, versions, git revision and machine."""

import json
import os
import subprocess
import sys
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from mathsft.checks import load_yaml
from mathsft.device import hardware, installed_version
from mathsft.files import check_regular, read_json, write_whole
from mathsft.processes import say
from mathsft.told import advice

CONFIG = "config.yaml"
ENVIRONMENT = "environment.json"
_VERSIONS = (
    "mathsft", "torch", "transformers", "trl", "peft", "accelerate", "bitsandbytes", "datasets",
    "tokenizers", "numpy",
)  # fmt: skip


def write_record(
    folder: str | Path,
    recipe: Mapping[str, Any],
    *,
    command: str,
    seed: int,
    processes: int = 1,
    resolved: Mapping[str, Any] | None = None,
) -> None:
    """Write ``config.yaml``, the resolved recipe, and ``environment.json`` into a run's folder.

    ``mathsft COMMAND --config FOLDER/config.yaml`` repeats the run from any folder: paths of
    existing files are written in full. On a CPU, with the same versions and as many processes and
    threads, the result is the same to the bit. ``environment.json`` holds the date, the ``seed``,
    the number of ``processes`` and threads, the hardware, what the device decided (``resolved``),
    the versions of Python and of the packages, and the revision of mathsft (`git_revision`). If a
    run is resumed, the list ``resumed`` there gets each later start; its config stays. No
    environment variable is written down.
    """
    import torch

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    start = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "processes": processes,
        "threads": torch.get_num_threads(),
        "hardware": hardware(),
        "revision": git_revision(),
        "python": sys.version.split()[0],
        "versions": {package: installed_version(package) for package in _VERSIONS},
    }
    environment = _recorded(folder) if (folder / CONFIG).exists() else None
    begun = environment is not None
    if environment is None:
        environment = {"command": command, "seed": seed, "resolved": {**(resolved or {})}, **start}
    else:
        environment.setdefault("resumed", []).append(start)
    write_whole(folder / ENVIRONMENT, json.dumps(environment, indent=1) + "\n")
    if not begun:  # last: a folder with it holds a run
        write_whole(folder / CONFIG, _config(recipe, command, processes))


def _recorded(folder: Path) -> dict[str, Any] | None:
    """The content of ``environment.json``; None if it is absent, or damaged and now set aside."""
    path = folder / ENVIRONMENT
    if not path.exists():
        return None
    try:
        found = read_json(path)
        if isinstance(found, dict) and isinstance(found.get("resumed", []), list):
            return found
        problem = "it is not the record of a run"
    except ValueError as error:
        problem = str(error)
    _set_aside(path, problem)
    return None


def _set_aside(path: Path, problem: str) -> None:
    kept = path.with_name(f"{path.name}.damaged")
    os.replace(path, kept)
    say(f"{path} is damaged, perhaps by a kill ({problem}): it is kept as {kept.name}, and written "
        "anew")  # fmt: skip


def check_run(
    folder: Path, recipe: Mapping[str, Any], *, resume: bool, same_step: Collection[str] = ()
) -> None:
    """Raise ValueError if a run with this recipe must not be started, or resumed, in the folder."""
    if resume:
        check_same(folder, recipe, same_step=same_step)
    elif (folder / CONFIG).exists():
        raise ValueError(
            f"{folder} already holds a run: "
            + advice(
                python="resume=True resumes it; another output_dir starts a new one",
                line="--resume true resumes it; another --output_dir starts a new one",
            )
        )


def check_same(
    folder: str | Path, recipe: Mapping[str, Any], *, same_step: Collection[str] = ()
) -> None:
    """Raise ValueError, with the keys that differ, if the folder's run has another recipe.

    Also if its ``config.yaml`` has a key twice. In the sections of ``same_step``, with
    ``step_rows`` both times, another division of a step into batches is the same run. A file that
    is not whole is set aside, with a line, and `write_record` writes it anew: a checkpoint has its
    own record of its run.
    """
    path = Path(folder) / CONFIG
    if not path.exists():
        return
    text = _whole(path)
    if text is None:
        return
    there, now = _sections(load_yaml(text, path)), _sections(_absolute({**recipe}))
    divided = {
        (section, key)
        for section in same_step
        if {"step_rows"} <= there.get(section, {}).keys() & now.get(section, {}).keys()
        for key in ("per_device_train_batch_size", "gradient_accumulation_steps")
    }
    differ = [
        f"{section}.{key}"
        for section in {**there, **now}
        for key in {**there.get(section, {}), **now.get(section, {})}
        if there.get(section, {}).get(key) != now.get(section, {}).get(key)
        and (section, key) not in divided
    ]
    if differ:
        raise ValueError(
            f"{folder} holds a run with other settings ({', '.join(differ)}): resume it with its "
            + advice(
                python=f"own settings (read_recipe({str(path)!r})), or give another output_dir",
                line=f"own settings (--config {path}), or give another --output_dir",
            )
        )


def _whole(path: Path) -> str | None:
    """The text of a ``config.yaml``; None if it was not written to its end, and is now set aside.

    Raises ValueError if it is a pipe or the like.
    """
    import yaml

    check_regular(path)
    try:
        text = path.read_bytes().decode()
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        if isinstance(node, yaml.MappingNode):
            return text
        problem = "it holds no recipe" if node else "it is empty"
    except RecursionError:
        return text  # `load_yaml` says so
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        problem = " ".join(f"not valid YAML: {error}".split())
    _set_aside(path, problem)
    return None


def _sections(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe with a mapping for each section, also for one that is written in another way."""
    return {name: of if isinstance(of, Mapping) else {"": of} for name, of in recipe.items()}


def _config(recipe: Mapping[str, Any], command: str, processes: int) -> str:
    import yaml

    here = int(os.environ.get("LOCAL_WORLD_SIZE", processes))
    machines = f"--nnodes {processes // here} " if processes > here else ""
    start = f"torchrun {machines}--nproc_per_node {here} -m " if processes > 1 else ""
    about = f"# {start}mathsft {command} --config {CONFIG} repeats this run\n"
    text = yaml.safe_dump(_absolute({**recipe}), sort_keys=False, allow_unicode=True)
    return about + str(text)


def _absolute(value: Any, key: str = "") -> Any:
    """The recipe with the paths of existing files and folders in full."""
    if isinstance(value, Mapping):  # a mixture has files as keys
        return {_absolute(name): _absolute(inner, name) for name, inner in value.items()}
    looks = isinstance(value, str | Path) and any(sign in str(value) for sign in "/.\\")
    looks = looks or (key == "name" and value != "tiny")  # a model's folder
    return str(Path(value).resolve()) if looks and Path(value).exists() else value


def git_revision() -> str | None:
    """The commit of this package, with "+changes" if files differ from it.

    From a checkout, or as pip recorded it (``pip install git+https://…``); None without either.
    """
    home = Path(__file__).resolve().parent.parent
    if (home / ".git").exists():
        try:
            head = _git(home, "rev-parse", "HEAD")
            return head + ("+changes" if _git(home, "status", "--porcelain") else "")
        except (OSError, subprocess.CalledProcessError):
            return None
    try:
        recorded = metadata.distribution("mathsft").read_text("direct_url.json")
    except metadata.PackageNotFoundError:
        return None
    commit = json.loads(recorded or "{}").get("vcs_info", {}).get("commit_id")
    return str(commit) if commit else None


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},  # only reads
    )
    return done.stdout.strip()
