"""The files of an adapter, on disk or on the hub, and which base it was trained on.

The base is recognised by a few of its weights. Its name is not enough: two folders can hold the
same model, and one folder can be written again with other weights. Nor are the shapes: a base
and the same base with another adapter merged into it have equal shapes. So eight values of every
tensor are kept beside the adapter and compared when it is loaded.

The comparison must hold across dtypes (a base used in float16 for training and in bfloat16 for
evaluation is the same base), so values are compared to within rounding and not by a hash.
4-bit layers no longer hold their values. Theirs are read from the checkpoint, and left out if
there is none, or if the checkpoint is quantised itself and holds packed bytes.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig
from torch import Tensor
from transformers import PreTrainedModel

from mathsft.models.model_files import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    TEXT_FILES,
    check_safetensors,
    holds_model,
    refuse_mixed,
    weight_files,
)
from mathsft.processes import local, places, whole

IDENTITY_FILE = "base_identity.json"
SAMPLES = 8  # per tensor; some 2,000 values, 40 kB of JSON, for a model of 24 layers
# Rounding to bfloat16 moves a value by at most 2**-8 = 0.0039 of it; below 2**-14 float16 has
# steps of 6e-8.
RELATIVE, ABSOLUTE = 0.005, 1e-7
# peft puts a base's layer inside one of these, and beside it tensors that begin so.
_WRAPPERS = {"base_layer", "original_module", "token_adapter"}
_ADAPTERS_OWN = ("lora_", "modules_to_save", "trainable_tokens_")

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


def base_identity(base: PreTrainedModel, *, without: Iterable[Tensor] = ()) -> dict[str, Any]:
    """The record kept beside an adapter: name, architecture and `samples` per tensor.

    `base` may carry an adapter; the adapter's own weights are left out. So are the tensors of
    ``without``: those of the base that the adapter brings along, such as trained biases or a
    resized embedding, in which the base that it is loaded on may differ.
    """
    return {
        "name": base.name_or_path,
        "architecture": type(base).__name__,
        "samples": _samples(base, without),
    }


def identity_differences(identity: dict[str, Any], base: PreTrainedModel) -> tuple[list[str], int]:
    """Tensors of `base` that are not those of the record, and how many were compared.

    Returns readable differences, one per tensor. A tensor that only one side could sample
    is not compared. A base whose every sampled value moved by less than 0.5 % passes.
    """
    return sample_differences(identity["samples"], _samples(base))


def checkpoint_differences(base: PreTrainedModel, *, without: Iterable[Tensor] = ()) -> list[str]:
    """Tensors that in memory are not what the model's checkpoint holds; [] without a checkpoint."""
    inside, _ = _sampled(base, without)
    stored = _stored_samples(base, {name: shape for name, (shape, _) in inside.items()})
    return sample_differences(stored, {name: values for name, (_, values) in inside.items()})[0]


def sample_differences(
    recorded: dict[str, list[float]], samples: dict[str, list[float]]
) -> tuple[list[str], int]:
    """`identity_differences` between two records' samples."""
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
    """Whether a parameter belongs to an adapter, and not to the base inside."""
    return any(part.startswith(_ADAPTERS_OWN) for part in name.split("."))


def unwrapped_name(name: str) -> str:
    """A base's parameter by the name that it has without an adapter around it."""
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def _positions(shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Indices spread over the diagonal of a tensor, so over rows and columns alike."""
    return [tuple(k * size // SAMPLES for size in shape) for k in range(SAMPLES)]


def _samples(base: PreTrainedModel, without: Iterable[Tensor] = ()) -> dict[str, list[float]]:
    sampled, packed = _sampled(base, without)
    samples = {name: values for name, (_, values) in sampled.items()}
    return samples | (_stored_samples(base, packed) if packed else {})


def _sampled(
    base: PreTrainedModel, without: Iterable[Tensor]
) -> tuple[dict[str, tuple[tuple[int, ...], list[float]]], dict[str, tuple[int, ...]]]:
    """Shape and values by name, and the shapes of the tensors that are packed."""
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
    """Whether a tensor of this kind holds weights: 8 bits and fewer need their scales as well."""
    return dtype.is_floating_point and dtype.itemsize > 1


def _stored_samples(
    base: PreTrainedModel, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, list[float]]:
    """Values of the named tensors as the checkpoint holds them; those that it packed are not."""
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
