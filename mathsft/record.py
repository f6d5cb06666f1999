"""What a run was made from: its settings, versions, git revision and machine, in its folder."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from mathsft.device import hardware, installed_version

CONFIG = "config.yaml"
ENVIRONMENT = "environment.json"
_VERSIONS = (
    "mathsft", "torch", "transformers", "trl", "peft", "accelerate", "bitsandbytes", "datasets",
    "tokenizers", "numpy",
)  # fmt: skip


def write_record(
    folder: str | Path, recipe: Mapping[str, Any], *, command: str, seed: int, processes: int = 1
) -> None:
    """Write ``config.yaml``, the resolved recipe, and ``environment.json`` into a run's folder.

    ``mathsft COMMAND --config FOLDER/config.yaml`` repeats the run; on a CPU with the same versions
    and number of threads to the bit. ``environment.json`` holds the date, the seed, the number
    of processes and threads, the hardware, the versions of Python and of what was used, and
    the revision of mathsft (`git_revision`). No variable of the environment is written down.
    """
    import torch
    import yaml

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump({**recipe}, sort_keys=False, allow_unicode=True)
    about = f"# mathsft {command} --config {CONFIG} repeats this run\n"
    (folder / CONFIG).write_text(about + text, encoding="utf-8")
    environment = {
        "command": command,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "seed": seed,
        "processes": processes,
        "threads": torch.get_num_threads(),
        "hardware": hardware(),
        "revision": git_revision(),
        "python": sys.version.split()[0],
        "versions": {package: installed_version(package) for package in _VERSIONS},
    }
    text = json.dumps(environment, indent=1) + "\n"
    (folder / ENVIRONMENT).write_text(text, encoding="utf-8")


def git_revision() -> str | None:
    """The commit that this package is of, with "+changes" where files differ from it.

    Of a checkout, or as pip recorded it (``pip install git+https://…``); None where neither is.
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
        env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},  # only looks
    )
    return done.stdout.strip()
