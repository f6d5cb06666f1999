"""The files of an adapter, on disk or on the hub, and which base it was trained on.

The base is recognised by a few of its weights. Its name is not enough: two folders can hold the
same model, and one folder can be overwritten with other weights. The shapes are not enough
either: a base and the same base with another adapter merged into it have equal shapes. So eight
values of every tensor are stored beside the adapter and compared when it is loaded.

The comparison must work across dtypes (a base used in float16 for training and in bfloat16 for
evaluation is the same base), so values are compared up to rounding and not by a hash.
4-bit layers no longer hold their original values. These values are read from the checkpoint. They
are left out if there is no checkpoint, or if it is quantised itself and holds packed bytes.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig
from torch import Tensor
from transformers import PreTrainedModel

from mathsft.models.folders import TEXT_FILES, repair_folder
from mathsft.models.model_files import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    check_safetensors,
    holds_model,
    refuse_mixed,
    weight_files,
)
from mathsft.models.sharding import local, places, whole

IDENTITY_FILE = "base_identity.json"
SAMPLES = 8  # per tensor; some 2,000 values, 40 kB of JSON, for a model of 24 layers
# Rounding to bfloat16 changes a value by at most 2**-8 = 0.0039 of its size; below 2**-14 float16
# has steps of 6e-8.
RELATIVE, ABSOLUTE = 0.005, 1e-7
# peft puts a base layer inside one of these wrappers, beside tensors with one of these prefixes.
_WRAPPERS = {"base_layer", "original_module", "token_adapter"}
_ADAPTERS_OWN = ("lora_", "modules_to_save", "trainable_tokens_")

# Files to fetch from a hub repository, as file name patterns. The first two are required.
ADAPTER_FILES = (ADAPTER_CONFIG, ADAPTER_WEIGHTS, IDENTITY_FILE, *TEXT_FILES)


def some(names: Iterable[str], count: int = 3) -> str:
    """Return the first few names, and how many more there are, as text."""
    names = list(names)
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + more


def local_adapter(source: str | Path, revision: str | None) -> Path:
    """Return an adapter's folder with all its files, from the hub if `source` is not a folder.

    Raises FileNotFoundError for a missing folder or file, OSError if the hub cannot provide it,
    ValueError for a damaged file, or for a folder that holds a full model.
    """
    folder = Path(source).expanduser()
    repair_folder(folder)
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
                f"{folder} has no {name}, so it holds no adapter. It holds: {found}. {advice}"
            )
    check_safetensors(folder / ADAPTER_WEIGHTS)
    return folder


def _from_hub(source: str | Path, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    if isinstance(source, Path) or str(source).count("/") != 1 or str(source)[0] in "./~":
        raise FileNotFoundError(f"no folder {source} (looked from {Path.cwd()})")
    try:
        return Path(
            snapshot_download(str(source), revision=revision, allow_patterns=list(ADAPTER_FILES))
        )
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError) as error:
        raise OSError(
            f"{source} is neither a folder (looked from {Path.cwd()}) nor available from the hub: "
            f"{str(error).strip().splitlines()[0]}"
        ) from error


def read_config(folder: Path) -> LoraConfig:
    """Return the adapter's config. Raises ValueError if it cannot be read or is not LoRA."""
    try:
        config = PeftConfig.from_pretrained(str(folder))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(
            f"{folder / ADAPTER_CONFIG} cannot be read ({error}): copy the adapter again"
        ) from error
    if not isinstance(config, LoraConfig):
        raise ValueError(
            f"{folder} holds an adapter of type {config.peft_type.value}, and only LoRA is "
            "supported: load it with peft.PeftModel.from_pretrained"
        )
    return config


def base_identity(base: PreTrainedModel, *, without: Iterable[Tensor] = ()) -> dict[str, Any]:
    """Return the record stored beside an adapter: name, architecture and `samples` per tensor.

    `base` may have an adapter; the adapter's own weights are left out. So are the tensors in
    ``without``: base tensors that the adapter brings with it, such as trained biases or a
    resized embedding. The base that it is loaded on later may differ in these.
    """
    return {
        "name": base.name_or_path,
        "architecture": type(base).__name__,
        "samples": _samples(base, without),
    }


def identity_differences(identity: dict[str, Any], base: PreTrainedModel) -> tuple[list[str], int]:
    """Return the tensors of `base` that differ from the record, and how many were compared.

    The differences are readable texts, one per tensor. A tensor that only one side could sample
    is not compared. A base passes if every sampled value changed by less than 0.5 %.
    """
    return sample_differences(identity["samples"], _samples(base))


def checkpoint_differences(base: PreTrainedModel, *, without: Iterable[Tensor] = ()) -> list[str]:
    """Return the tensors in memory that differ from the checkpoint; [] if there is none."""
    inside, _ = _sampled(base, without)
    stored = _stored_samples(base, {name: shape for name, (shape, _) in inside.items()})
    return sample_differences(stored, {name: values for name, (_, values) in inside.items()})[0]


def sample_differences(
    recorded: dict[str, list[float]], samples: dict[str, list[float]]
) -> tuple[list[str], int]:
    """Compare the samples of two records, as `identity_differences` does."""
    differences, compared = [], 0
    for name, theirs in recorded.items():
        if name not in samples:
            continue
        compared += 1
        for their, our in zip(theirs, samples[name], strict=True):
            if abs(their - our) > RELATIVE * max(abs(their), abs(our)) + ABSOLUTE:
                differences.append(f"{name} (recorded {their:.4g}, here {our:.4g})")
                break
    return differences, compared


def is_adapters_own(name: str) -> bool:
    """Return whether a parameter belongs to an adapter, not to the base inside it."""
    return any(part.startswith(_ADAPTERS_OWN) for part in name.split("."))


def unwrapped_name(name: str) -> str:
    """Return the name that a base parameter has without an adapter around it."""
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def _positions(shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Return indices along the diagonal of a tensor, so they cover rows and columns alike."""
    return [tuple(k * size // SAMPLES for size in shape) for k in range(SAMPLES)]


def _samples(base: PreTrainedModel, without: Iterable[Tensor] = ()) -> dict[str, list[float]]:
    sampled, packed = _sampled(base, without)
    samples = {name: values for name, (_, values) in sampled.items()}
    return samples | (_stored_samples(base, packed) if packed else {})


def _sampled(
    base: PreTrainedModel, without: Iterable[Tensor]
) -> tuple[dict[str, tuple[tuple[int, ...], list[float]]], dict[str, tuple[int, ...]]]:
    """Return shapes and sampled values by name, and the shapes of the packed tensors by name."""
    left_out = places(without)
    sampled, packed = {}, {}
    for name, parameter in base.named_parameters():
        if is_adapters_own(name):
            continue
        if parameter.numel() == 0 or local(parameter).data_ptr() in left_out:
            continue
        name = unwrapped_name(name)
        if hasattr(parameter, "quant_state") or not _holds_values(parameter.dtype):
            packed[name] = tuple(getattr(parameter, "quant_state", parameter).shape)
            continue
        shape = tuple(parameter.shape)
        index = torch.tensor(_positions(shape)).T
        values = whole(parameter.detach())[tuple(index.to(parameter.device))]
        sampled[name] = (shape, values.float().tolist())
    return sampled, packed


def _holds_values(dtype: torch.dtype) -> bool:
    """Return whether this dtype holds full weights: 8 bits or fewer also need their scales."""
    return dtype.is_floating_point and dtype.itemsize > 1


def _stored_samples(
    base: PreTrainedModel, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, list[float]]:
    """Return values of the named tensors from the checkpoint; packed ones are left out."""
    from safetensors import safe_open

    samples = {}
    for path in weight_files(base):
        with safe_open(path, framework="pt") as tensors:
            for name in shapes.keys() & set(tensors.keys()):
                part = tensors.get_slice(name)
                if tuple(part.get_shape()) != shapes[name]:
                    continue
                found = torch.stack(
                    [
                        part[tuple(slice(i, i + 1) for i in position)].flatten()[0]
                        for position in _positions(shapes[name])
                    ]
                )
                if _holds_values(found.dtype):
                    samples[name] = found.float().tolist()
    return samples
