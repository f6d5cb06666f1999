"""What the folder of an adapter holds, here or on the hub, and reading it."""

from collections.abc import Iterable
from pathlib import Path

from peft import LoraConfig, PeftConfig

from mathsft.models.checkpoint import TEXT_FILES
from mathsft.models.identity import IDENTITY_FILE
from mathsft.models.model_paths import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    check_safetensors,
    holds_model,
    refuse_mixed,
)

# What is fetched of a hub repository, as patterns of file names. The first two must be there.
ADAPTER_FILES = (ADAPTER_CONFIG, ADAPTER_WEIGHTS, IDENTITY_FILE, *TEXT_FILES)


def some(names: Iterable[str], count: int = 3) -> str:
    """The first few names, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + more


def local_adapter(source: str | Path, revision: str | None) -> Path:
    """The folder of an adapter, fetched from the hub if `source` is no folder; all files there.

    Raises FileNotFoundError for an absent folder or file, OSError if the hub cannot give it,
    ValueError for a damaged file, or a folder that holds a full model besides.
    """
    folder = Path(source).expanduser()
    if not folder.is_dir():
        folder = _from_hub(source, revision)
    elif revision is not None:
        raise ValueError(
            f"revision={revision!r} is for hub names, and {folder} is a folder: leave it out"
        )
    refuse_mixed(folder)
    if holds_model(folder):
        raise ValueError(
            f"{folder} holds a full model, not an adapter: load it with load_model({str(folder)!r})"
        )
    for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        if not (folder / name).exists():
            found = some(sorted(path.name for path in folder.iterdir()), 8) or "nothing"
            advice = "Give the folder that save_adapter wrote"
            if (folder / "adapter_model.bin").exists():
                advice = (
                    "adapter_model.bin is a pickle, which can run code when it is opened: if you "
                    "trust it, load it with peft.PeftModel.from_pretrained and give that model to "
                    "save_adapter"
                )
            raise FileNotFoundError(
                f"{folder} holds no {name}, so no adapter; it holds: {found}. {advice}"
            )
    check_safetensors(folder / ADAPTER_WEIGHTS)
    return folder


def _from_hub(source: str | Path, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    if isinstance(source, Path) or str(source).count("/") != 1 or str(source)[0] in "./~":
        raise FileNotFoundError(f"no folder {source} (from {Path.cwd()})")
    try:
        return Path(
            snapshot_download(str(source), revision=revision, allow_patterns=list(ADAPTER_FILES))
        )
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError) as error:
        raise OSError(
            f"{source} is neither a folder here (from {Path.cwd()}) nor available from the hub: "
            f"{str(error).strip().splitlines()[0]}"
        ) from error


def read_config(folder: Path) -> LoraConfig:
    """The adapter's config. Raises ValueError if it cannot be read or is not LoRA."""
    try:
        config = PeftConfig.from_pretrained(str(folder))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{folder / ADAPTER_CONFIG} cannot be read ({error}): copy the adapter again"
        ) from error
    if not isinstance(config, LoraConfig):
        raise ValueError(
            f"{folder} holds an adapter of type {config.peft_type.value}, and only LoRA is "
            "supported: load it with peft.PeftModel.from_pretrained"
        )
    return config
