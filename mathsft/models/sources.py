"""From the name of a model to the folder or hub name that is loaded."""

import json
from pathlib import Path

from mathsft.models.folders import (
    ADAPTER_CONFIG,
    check_safetensors,
    holds_adapter,
    model_files,
    refuse_mixed,
)

TINY = Path(__file__).parent / "tiny"


def checked_source(name: str | Path, revision: str | None) -> str:
    """What `from_pretrained` is given: a checked folder, or a hub name as it is.

    Raises FileNotFoundError where a folder or a file in it is absent, ValueError where the
    folder holds an adapter or a damaged file.
    """
    folder = TINY if name == "tiny" else Path(name).expanduser()
    if not folder.is_dir():
        _refuse_lost_folder(name, folder)
        return str(name)
    if revision is not None:
        raise ValueError(f"revision={revision!r} is for hub names; {name} is a folder")
    refuse_mixed(folder)
    if holds_adapter(folder):
        raise ValueError(
            f"{folder} holds an adapter, not a model. Load its base first "
            f"({_adapter_base(folder)}), then: model = load_adapter(model, {str(folder)!r})"
        )
    if not (folder / "config.json").exists():
        raise FileNotFoundError(
            f"{folder} holds no config.json, so it is no saved model. It holds: "
            f"{', '.join(sorted(p.name for p in folder.iterdir())[:8]) or 'nothing'}"
        )
    weights = model_files(folder)
    if not any(path.suffix == ".safetensors" for path in weights):
        found = f"only {weights[0].name}" if weights else "no weights"
        raise FileNotFoundError(
            f"{folder} holds {found}; model.safetensors is wanted. Other formats can run code "
            "when they are opened; save the model again with save_pretrained"
        )
    for path in weights:
        if path.suffix == ".safetensors":
            check_safetensors(path)
    return str(folder)


def _refuse_lost_folder(name: str | Path, folder: Path) -> None:
    text = str(name)
    looks_like_path = isinstance(name, Path) or text.startswith((".", "/", "~", "\\"))
    if folder.is_file():
        raise ValueError(f"{folder} is a file; give the folder that holds config.json")
    if looks_like_path or text.count("/") > 1:
        raise FileNotFoundError(f"no folder {folder} (from {Path.cwd()})")


def _adapter_base(folder: Path) -> str:
    try:
        text = (folder / ADAPTER_CONFIG).read_text(encoding="utf-8")
        base = json.loads(text)["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError):
        return "its name is not recorded"
    return f"load_model({base!r})" if base else "its name is not recorded"
