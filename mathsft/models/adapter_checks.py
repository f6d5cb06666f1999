"""The checks behind `adapters`: is a saved adapter whole, and does it belong to this base?"""

import copy
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors import safe_open
from transformers import PreTrainedModel

from mathsft.models.folders import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    check_safetensors,
    holds_model,
    model_files,
    refuse_mixed,
)
from mathsft.models.identity import IDENTITY_FILE, identity_differences
from mathsft.models.modes import evaluating

DOUBLY_WRAPPED = "base_model.model.base_model.model."
State = dict[str, torch.Tensor]


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
        raise ValueError(f"revision={revision!r} is for hub names; {folder} is a folder")
    refuse_mixed(folder)
    if holds_model(folder):
        raise ValueError(f"{folder} holds a full model, not an adapter: use load_model")
    for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        if not (folder / name).exists():
            found = some(sorted(path.name for path in folder.iterdir()), 8) or "nothing"
            raise FileNotFoundError(f"{folder} holds no {name}, so no adapter; it holds: {found}")
    check_safetensors(folder / ADAPTER_WEIGHTS)
    return folder


def _from_hub(source: str | Path, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    wanted = [ADAPTER_CONFIG, ADAPTER_WEIGHTS, IDENTITY_FILE]
    if isinstance(source, Path) or str(source).count("/") != 1 or str(source)[0] in "./~":
        raise FileNotFoundError(f"no folder {source} (from {Path.cwd()})")
    try:
        return Path(snapshot_download(str(source), revision=revision, allow_patterns=wanted))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError) as error:
        raise OSError(
            f"{source} is neither a folder here (from {Path.cwd()}) nor to be had from the hub: "
            f"{str(error).strip().splitlines()[0]}"
        ) from error


def read_config(folder: Path) -> LoraConfig:
    """The adapter's config. Raises ValueError if it cannot be read or is not LoRA."""
    try:
        config = PeftConfig.from_pretrained(str(folder))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder / ADAPTER_CONFIG} cannot be read: {error}") from error
    if not isinstance(config, LoraConfig):
        raise ValueError(f"{folder} holds an adapter of type {config.peft_type}; LoRA is wanted")
    return config


def check_fit(state: State, config: LoraConfig, base: PreTrainedModel, folder: Path) -> None:
    """Hold the file's keys, shapes and values against what `base` and `config` call for.

    Raises ValueError naming what is missing, left over, of another shape, or not finite.
    """
    twice = [key for key in state if key.startswith(DOUBLY_WRAPPED)]
    if twice:
        raise ValueError(
            f"{folder}: the adapter was wrapped twice, its keys start with {DOUBLY_WRAPPED}… "
            f"({twice[0]}). It comes of get_peft_model called on a model that had an adapter, as "
            "when a notebook cell runs twice. peft would load none of it and leave the base as "
            "it is. Train it again from the base, with one add_adapter"
        )
    expected = _expected_shapes(config, base, folder)
    missing = sorted(expected.keys() - state.keys())
    left_over = sorted(state.keys() - expected.keys())
    if missing or left_over:
        parts = [
            f"{len(keys)} {kind} ({some(keys)})"
            for kind, keys in (("missing", missing), ("unexpected", left_over))
            if keys
        ]
        raise ValueError(
            f"{folder}: the adapter's keys do not match this base and its adapter_config.json: "
            f"{'; '.join(parts)}. It belongs to another base, or was not saved whole"
        )
    shapes = [
        f"{key}: {tuple(tensor.shape)} in the file, {expected[key]} wanted"
        for key, tensor in sorted(state.items())
        if tuple(tensor.shape) != expected[key]
    ]
    if shapes:
        raise ValueError(
            f"{folder} is an adapter of another base: {len(shapes)} of {len(state)} tensors have "
            f"other shapes ({some(shapes, 2)}). Its config names the base "
            f"{config.base_model_name_or_path!r} and r={config.r}"
        )
    for key, tensor in state.items():
        if not torch.isfinite(tensor).all():
            raise ValueError(f"{folder}: {key} holds values that are not finite; train it again")


def _expected_shapes(
    config: LoraConfig, base: PreTrainedModel, folder: Path
) -> dict[str, tuple[int, ...]]:
    """Keys and shapes of the adapter's file, from a copy of the architecture without memory.

    On the real base a failed attempt would leave layers behind.
    """
    config = copy.deepcopy(config)
    with torch.device("meta"):
        empty = type(base)(copy.deepcopy(base.config))
        config.base_model_name_or_path = empty.name_or_path  # else peft warns of the difference
        try:
            wrapped = get_peft_model(empty, config)
        except ValueError as error:
            raise ValueError(
                f"{folder} is an adapter of another base: this one lacks the modules that it "
                f"adapts ({some(sorted(config.target_modules or []))})"
            ) from error
    state = get_peft_model_state_dict(wrapped, save_embedding_layers=False)
    return {key: tuple(tensor.shape) for key, tensor in state.items()}


def check_base(base: PreTrainedModel, folder: Path) -> None:
    """Raise ValueError if the identity beside the adapter is not that of `base`.

    An adapter from elsewhere has none beside it; then keys and shapes have to do.
    """
    path = folder / IDENTITY_FILE
    if not path.exists():
        return
    try:
        identity = json.loads(path.read_text(encoding="utf-8"))
        differences, compared = identity_differences(identity, base)
        name = identity["name"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} cannot be read ({error}): copy the adapter again") from error
    if differences:
        raise ValueError(
            f"{folder} is an adapter of another base: {len(differences)} of {compared} compared "
            f"weights differ ({some(differences, 2)}). It was trained on {name!r}, this model "
            f"is {base.name_or_path!r}"
        )


def check_equal(found: State, wanted: State, what: str) -> None:
    """Raise ValueError unless both hold the same keys and the same values (dtypes may differ)."""
    if found.keys() != wanted.keys():
        odd = sorted(found.keys() ^ wanted.keys())
        raise ValueError(f"{what}: {len(odd)} tensors are on one side only ({some(odd)})")
    odd = [
        key
        for key, tensor in wanted.items()
        if not torch.equal(found[key].cpu().float(), tensor.cpu().float())
    ]
    if odd:
        raise ValueError(f"{what}: {len(odd)} tensors differ from what was meant ({some(odd)})")


def check_saved_model(folder: Path, state: State) -> None:
    """Raise ValueError unless the weight files give back the state dict, tensor for tensor.

    A tied weight (the output head that is the embedding) is stored once.
    """
    stored = set()
    for path in model_files(folder):
        with safe_open(path, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 (a file, not a dict)
                check_equal({name: tensors.get_tensor(name)}, {name: state[name]}, str(path))
                stored.add(state[name].data_ptr())
    lost = [name for name, tensor in state.items() if tensor.data_ptr() not in stored]
    if lost:
        raise ValueError(f"{folder}: {len(lost)} weights were not written ({some(lost)})")


def adapter_effect(model: PeftModel) -> float:
    """Largest change that the adapter makes to a logit of a fixed short sequence.

    Raises ValueError if there is none, or if a logit is not finite: such a model is its base
    under another name, or no model at all.
    """
    with_adapter = probe_logits(model)
    trainable = [parameter.requires_grad for parameter in model.parameters()]
    with model.disable_adapter():
        without = probe_logits(model)
    # On leaving the context peft makes the adapter trainable, whatever it was before.
    for parameter, flag in zip(model.parameters(), trainable, strict=True):
        parameter.requires_grad_(flag)
    for logits, which in ((with_adapter, "with"), (without, "without")):
        if not torch.isfinite(logits).all():
            raise ValueError(f"the logits {which} the adapter are not finite")
    effect = (with_adapter - without).abs().max().item()
    if effect == 0:
        state = adapter_state(model)
        zero = all(not state[key].any() for key in state if ".lora_B" in key)
        reason = "lora_B is zero everywhere: it was never trained" if zero else "it is too small"
        raise ValueError(f"this adapter does nothing: the logits are those of the base; {reason}")
    return effect


def base_of(model: PeftModel) -> PreTrainedModel:
    """The model inside the wrapper; its projections still carry the adapter's layers."""
    return cast(PreTrainedModel, model.get_base_model())


def probe_logits(model: Any) -> torch.Tensor:
    """float32 logits (1, 16, vocabulary) of the first tokens of the vocabulary, in eval mode."""
    embedding = model.get_input_embeddings()
    ids = torch.arange(min(16, embedding.weight.shape[0]), device=embedding.weight.device)
    with evaluating(model), torch.no_grad():
        return model(input_ids=ids[None], use_cache=False).logits.float()


def adapter_state(model: PeftModel) -> dict[str, torch.Tensor]:
    """The adapter's tensors under the keys of its file."""
    if not isinstance(model, PeftModel):
        raise ValueError("the model has no adapter; add one with add_adapter or load_adapter")
    if list(model.peft_config) != ["default"]:
        raise ValueError(f"one adapter named 'default' is wanted, found {list(model.peft_config)}")
    # Without the flag peft asks the hub whether the vocabulary was resized.
    return get_peft_model_state_dict(model, save_embedding_layers=False)
