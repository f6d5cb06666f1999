"""Where tokens come from and where runs go. Tokens are never printed, logged or stored."""

import logging
import os
import sys
import warnings
from collections.abc import Iterable
from contextlib import suppress
from importlib import metadata
from itertools import count
from netrc import NetrcParseError, netrc
from pathlib import Path
from urllib.parse import urlsplit

from mathsft.bars import in_notebook
from mathsft.checks import unknown_name
from mathsft.processes import say

_TOKENS = ("HF_TOKEN", "WANDB_API_KEY", "WANDB_ENTITY", "MATHSFT_API_KEY")
_OURS: dict[str, str] = {}  # variables that `prepare_tracking` has set
_TRACKERS = ("wandb", "tensorboard", "none")


def load_settings() -> list[str]:
    """Find tokens in the environment, in ``.env`` and in Colab's secrets; return the names found.

    The first of these wins: a variable that is set; the nearest ``.env`` from this folder upwards
    (an empty entry counts as absent); on Colab, a secret of that name if the notebook may read
    it. Found tokens are exported to the environment, where huggingface_hub and wandb look for
    them. Returns names only, never values. An empty list is fine: no lesson needs a token.
    """
    from dotenv import dotenv_values, find_dotenv

    # usecwd: in a notebook the search must start at its folder, not at this module's.
    entries = dotenv_values(find_dotenv(usecwd=True))
    missing = [name for name in _TOKENS if not os.environ.get(name)]
    found = {name: value for name in missing if (value := entries.get(name))}
    found |= _colab_secrets([name for name in missing if name not in found])
    os.environ.update(found)
    return [name for name in _TOKENS if os.environ.get(name)]


def _colab_secrets(names: Iterable[str]) -> dict[str, str]:
    """Colab's secrets of these names: those that exist and that this notebook may read."""
    if "google.colab" not in sys.modules:
        return {}
    from google.colab import userdata

    found = {}
    for name in names:
        try:
            found[name] = userdata.get(name)
        except (userdata.SecretNotFoundError, userdata.NotebookAccessError):
            continue
        except userdata.TimeoutException:  # no answer: the next would take as long
            break
    return {name: value for name, value in found.items() if value}


def tracker(wanted: str | None = None) -> str:
    """The value for a trainer's ``report_to``: "wandb", "tensorboard" or "none".

    ``wanted``: None means wandb if it is installed and there is a key for it, else none.
    "tensorboard" needs no account: ``%tensorboard --logdir`` with the run's folder shows the
    curves in the notebook. Raises ValueError for any other value, and ImportError for a tracker
    that is not installed.
    """
    if wanted is None:
        return "wandb" if _wandb_key() and _installed("wandb") else "none"
    if wanted not in _TRACKERS:
        raise ValueError(unknown_name("tracker", wanted, _TRACKERS))
    check_trackers(wanted)
    return wanted


def check_trackers(report_to: str | list[str] | None) -> None:
    """Raise ImportError if a tracker is asked for by name and is not installed.

    Raises ValueError for a name that transformers does not know.
    """
    if others := _named(report_to) - {*_TRACKERS, "all"}:
        from transformers.integrations import get_available_reporting_integrations
        from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

        for name in sorted(others):
            if name not in INTEGRATION_TO_CALLBACK:
                known = [*INTEGRATION_TO_CALLBACK, "none"]
                raise ValueError(f"report_to: {unknown_name('tracker', name, known)}")
            if name not in get_available_reporting_integrations():
                package = name.replace("_", "-")
                raise ImportError(f"report_to: {name} is not installed: pip install {package}")
    for name in _named(report_to) & {"wandb", "tensorboard"}:
        if not _installed(name):
            raise ImportError(
                f"report_to: {name} is not installed: pip install 'mathsft[tracking]'"
            )


def _named(report_to: str | list[str] | None) -> set[str]:
    return {report_to} if isinstance(report_to, str) else set(report_to or [])


def _installed(name: str) -> bool:
    """Whether a tracker is installed: a folder of runs called wandb could be imported as well."""
    packages = ("tensorboard", "tensorboardX") if name == "tensorboard" else (name,)
    return any(any(metadata.distributions(name=package)) for package in packages)


def prepare_tracking(report_to: str | list[str] | None, output_dir: str) -> None:
    """Make sure that no tracker asks a question, and that its files are stored with the run.

    Without a key, wandb would ask for one and wait: it records offline instead, and a line says
    how to upload that later. A ``WANDB_MODE`` or ``WANDB_DIR`` that is set wins.
    """
    check_trackers(report_to)
    words = _named(report_to)
    if {"wandb", "all"} & words:
        _export("WANDB_DIR", output_dir)
        if _wandb_key():
            if _export("WANDB_MODE", None):  # offline only while there was no key
                say(
                    "wandb: a key was found, so curves go to that account; report_to='none' "
                    "switches this off"
                )
        elif _export("WANDB_MODE", "offline"):
            say(
                f"wandb: no key was found, so this is recorded offline, in {output_dir}/wandb; "
                "with a key, `wandb sync` uploads the folder offline-run-… in it"
            )
    if {"tensorboard", "all"} & words:
        say(
            f"TensorBoard: %load_ext tensorboard and %tensorboard --logdir '{output_dir}', in a "
            "cell before training, show the curves as they grow"
        )


def _export(name: str, value: str | None) -> bool:
    """Set or unset a variable, unless something else has set it; return whether it was done."""
    if name in os.environ and os.environ[name] != _OURS.get(name):
        return False
    os.environ.pop(name, None)
    if value is not None:
        os.environ[name] = _OURS[name] = value
    return True


def _wandb_key() -> bool:
    """Whether wandb can log in without asking: by its variables, or after `wandb login`."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    path = os.environ.get("NETRC") or Path.home() / (
        "_netrc" if sys.platform == "win32" else ".netrc"
    )
    try:
        return netrc(path).authenticators(host) is not None
    except (OSError, NetrcParseError):
        return False


def runs_folder() -> Path:
    """The folder of all runs: ``runs`` in the repository, or in the current folder.

    ``MATHSFT_RUNS`` replaces it. Every notebook inside a checkout gets the checkout's folder.
    """
    top = os.environ.get("MATHSFT_RUNS")
    if top is not None:
        return Path(top)
    here = Path.cwd()
    homes = [p for p in (here, *here.parents) if (p / "pyproject.toml").is_file()]
    return (homes[0] if homes else here) / "runs"


def run_dir(name: str) -> Path:
    """The folder ``name`` of one run in `runs_folder`, created if absent.

    Notebooks find there what earlier lessons made.
    """
    folder = runs_folder() / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def run_folder(given: str | Path | None, name: str, *, make: bool) -> tuple[Path, list[Path]]:
    """The folder of a run, ``given`` or the first free number, and which folders were made for it.

    Args:
        given: the user's own choice; it is not made here.
        name: such as ``sft``: then ``runs/sft-1``, ``runs/sft-2``, … is taken.
        make: make the numbered folder. Of several processes that ask at once, each makes another.
    """
    if given is not None:
        return Path(given), []
    runs = runs_folder()
    absent = [one for one in (runs, *runs.parents) if make and not one.exists()]
    for number in count(1):
        folder = runs / f"{name.replace('_', '-')}-{number}"
        if not make and not folder.exists():
            return folder, []
        with suppress(FileExistsError):
            if make:
                runs.mkdir(parents=True, exist_ok=True)
                folder.mkdir()
                return folder, [folder, *absent]
    raise AssertionError("numbers do not end")


def _no_alignment_notice(record: logging.LogRecord) -> bool:
    """Leave out that a trainer fills in the special tokens which a model's config lacks."""
    return "PAD/BOS/EOS tokens that differ" not in record.getMessage()


def quiet() -> None:
    """Keep a notebook readable: no bars for loading from disk, no notices about internals.

    Downloads keep their progress bars. Trainers of any library show one line of progress in place
    of transformers' table of losses, which stays empty on a page. Call it before importing
    transformers, because that import already prints a notice in a notebook without ipywidgets.
    """
    warnings.filterwarnings("ignore", message="IProgress not found")
    warnings.filterwarnings("ignore", message=".*gradient_checkpointing.* is deprecated")
    from datasets import disable_progress_bars
    from huggingface_hub.utils import enable_progress_bars
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bars()
    disable_progress_bar()
    enable_progress_bars()  # of downloads, which the line above switches off as well
    for name in ("transformers.trainer", "transformers.trainer_utils"):  # by version
        logging.getLogger(name).addFilter(_no_alignment_notice)
    if in_notebook():
        from mathsft.training.progress import lines_for_all_trainers

        lines_for_all_trainers()
