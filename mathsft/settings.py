"""Where tokens come from and where runs go. Tokens are never printed, logged or stored."""

import logging
import os
import sys
import warnings
from pathlib import Path

_TOKENS = ("HF_TOKEN", "WANDB_API_KEY", "WANDB_ENTITY")


def load_settings() -> list[str]:
    """Find tokens in the environment, in ``.env`` and in Colab's secrets; name those found.

    In this order, and the first one wins: a variable that is set; the nearest ``.env`` from
    this folder upwards, where an empty entry counts as absent; on Colab, a secret of that
    name if the notebook may read it. Found tokens are exported to the environment, where
    huggingface_hub and wandb look. Returns names only, never values; an empty list is
    fine: no lesson needs a token.
    """
    from dotenv import dotenv_values, find_dotenv

    # usecwd: in a notebook the search must start at its folder, not at this module's.
    entries = dotenv_values(find_dotenv(usecwd=True))
    for name in _TOKENS:
        if not os.environ.get(name):
            value = entries.get(name) or _colab_secret(name)
            if value:
                os.environ[name] = value
    return [name for name in _TOKENS if os.environ.get(name)]


def _colab_secret(name: str) -> str | None:
    """The Colab secret, or None: elsewhere, where it is absent, not shared, or times out."""
    if "google.colab" not in sys.modules:
        return None
    from google.colab import userdata

    try:
        return userdata.get(name)
    except (userdata.SecretNotFoundError, userdata.NotebookAccessError, userdata.TimeoutException):
        return None


def runs_folder() -> Path:
    """The folder of all runs: ``runs`` in the repository or under this folder.

    ``MATHSFT_RUNS`` replaces it. From inside a checkout it is the checkout's, wherever the
    notebook lies.
    """
    top = os.environ.get("MATHSFT_RUNS")
    if top is not None:
        return Path(top)
    here = Path.cwd()
    homes = [p for p in (here, *here.parents) if (p / "pyproject.toml").is_file()]
    return (homes[0] if homes else here) / "runs"


def run_dir(name: str) -> Path:
    """The folder of one run in `runs_folder`, made if absent.

    Notebooks find there what earlier lessons made.
    """
    folder = runs_folder() / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def quiet() -> None:
    """Keep a notebook readable: no bars for loading from disk, no notices of internals.

    Downloads and training keep their progress bars. Call it before importing transformers,
    whose import already says that a notebook without ipywidgets gets plain bars.
    """
    warnings.filterwarnings("ignore", message="IProgress not found")
    warnings.filterwarnings("ignore", message=".*gradient_checkpointing.* is deprecated")
    from datasets import disable_progress_bars
    from huggingface_hub.utils import enable_progress_bars
    from transformers.utils.logging import disable_progress_bar

    # On CPUs with bfloat16 units it misses a package that it can do without.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    disable_progress_bars()
    disable_progress_bar()
    enable_progress_bars()  # of downloads, which the line above switches off as well
