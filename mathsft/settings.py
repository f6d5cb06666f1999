"""Where tokens come from and where runs go. Tokens are never printed, logged or stored."""

import os
from pathlib import Path

_TOKENS = ("HF_TOKEN", "WANDB_API_KEY", "WANDB_ENTITY")


def load_settings() -> list[str]:
    """Read ``.env`` from this folder or the nearest one above; name the tokens that are set.

    What is already in the environment wins, and an empty entry of ``.env`` counts as
    absent. Returns names only, never values; an empty list is fine: no lesson needs a token.
    """
    from dotenv import dotenv_values, find_dotenv

    # usecwd: in a notebook the search must start at its folder, not at this module's.
    for name, value in dotenv_values(find_dotenv(usecwd=True)).items():
        if value and name not in os.environ:
            os.environ[name] = value
    return [name for name in _TOKENS if os.environ.get(name)]


def run_dir(name: str) -> Path:
    """The folder of a run, made if absent: ``runs/NAME`` in the repository or under this folder.

    ``MATHSFT_RUNS`` replaces ``runs``. Notebooks find there what earlier lessons made, so
    from inside a checkout the folder is the checkout's, wherever the notebook lies.
    """
    top = os.environ.get("MATHSFT_RUNS")
    if top is None:
        here = Path.cwd()
        homes = [p for p in (here, *here.parents) if (p / "pyproject.toml").is_file()]
        top = str((homes[0] if homes else here) / "runs")
    folder = Path(top) / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder
