"""Share a model's folder: on the hub if there is a token, otherwise as it is."""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from mathsft.files import read_json
from mathsft.models.adapter_files import IDENTITY_FILE
from mathsft.models.model_files import (
    ADAPTER_CONFIG,
    TINY,
    TOKENIZER_CONFIG,
    holds_adapter,
    holds_model,
    refuse_mixed,
)
from mathsft.processes import say
from mathsft.settings import load_settings
from mathsft.sharing.model_card import CARD, has_card


def share(folder: str | Path, repo_id: str | None = None, *, private: bool = True) -> str:
    """Upload an adapter or a model with its card to the hub; without a token, say how.

    Args:
        folder: an adapter's or a model's folder, with tokenizer and card.
        repo_id: the repository on the hub, ``USER/NAME``; it is made if it does not exist. None:
            nothing is uploaded.
        private: make a new repository private; an existing one stays as it is.

    The token is found by `load_settings` (``HF_TOKEN``, ``.env``, Colab's secrets) or by ``hf auth
    login``. It is never shown. In the uploaded copy, the folder in which an adapter's base was on
    this machine is shortened to its name.

    Returns the repository's address; the folder if nothing was uploaded.

    Raises:
        ValueError: the folder has no model, no tokenizer or no card; ``repo_id`` has another form.
        OSError: the hub cannot be reached, or refuses.
    """
    from huggingface_hub import get_token

    folder = Path(folder)
    _check_complete(folder)
    if repo_id is not None and (repo_id.count("/") != 1 or not all(repo_id.split("/"))):
        raise ValueError(f"repo_id={repo_id!r}: give USER/NAME, as in an address of the hub")
    if "\nlicense:" not in (folder / CARD).read_text(encoding="utf-8"):
        say(f"{folder / CARD} names no licence: write_model_card(…, license=…) adds one")
    load_settings()
    if repo_id is not None and get_token():
        return _upload(folder, repo_id, private=private)
    missing = "no repo_id was given" if repo_id is None else "no token was found"
    say(
        f"{folder} is complete: {', '.join(sorted(path.name for path in _files(folder)))}. Nothing "
        f"was uploaded, since {missing}. To upload it: hf auth login, or HF_TOKEN, and then "
        f"share({str(folder)!r}, {repo_id or 'USER/NAME'!r})"
    )
    return str(folder)


def _check_complete(folder: Path) -> None:
    refuse_mixed(folder)
    if not (holds_adapter(folder) or holds_model(folder)):
        raise ValueError(f"{folder} holds no adapter and no model: give the folder of one")
    if not (folder / TOKENIZER_CONFIG).exists():
        raise ValueError(
            f"{folder} has no tokenizer: save it again with tokenizer=tokenizer (save_adapter, "
            "merge_adapter)"
        )
    if not has_card(folder):
        raise ValueError(
            f"{folder} has no model card, so nobody could know what it is: "
            f"write_model_card({str(folder)!r}, results=…, base=…) first"
        )


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if not path.name.startswith(".")]


def _upload(folder: Path, repo_id: str, *, private: bool) -> str:
    from huggingface_hub import create_repo, upload_folder
    from huggingface_hub.errors import HfHubHTTPError

    with tempfile.TemporaryDirectory(prefix="mathsft-share-") as place:
        source = _without_paths(folder, Path(place)) if holds_adapter(folder) else folder
        try:
            address = create_repo(repo_id, private=private, exist_ok=True)
            upload_folder(
                repo_id=repo_id,
                folder_path=source,
                commit_message="Upload with mathsft",
                ignore_patterns=[".*"],
            )
        except HfHubHTTPError as error:
            said = str(error).strip().splitlines()[0]
            raise OSError(
                f"the hub refused {repo_id}: {said}. The token needs the right to write there"
            ) from None
    say(f"uploaded: {address}")
    return str(address)


def _without_paths(folder: Path, place: Path) -> Path:
    """A copy of an adapter whose files do not show where its base was on this machine."""
    for path in _files(folder):
        if path.is_file():
            shutil.copy(path, place)
    for name, key in ((ADAPTER_CONFIG, "base_model_name_or_path"), (IDENTITY_FILE, "name")):
        if not (place / name).exists():
            continue
        content: dict[str, Any] = read_json(place / name)
        base = Path(str(content.get(key)))
        if base.is_absolute():
            content[key] = "tiny" if base.parts[-3:] == TINY.parts[-3:] else base.name
            (place / name).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return place
