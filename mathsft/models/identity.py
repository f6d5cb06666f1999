"""Which base an adapter was trained on, told by a few of its weights.

Names do not tell: two folders can hold the same model, and one folder can be written
again with other weights. Shapes do not tell either: a base and the same base with another
adapter merged into it have equal shapes. So eight values of every tensor are kept beside
the adapter and compared when it is loaded.

The comparison must hold across dtypes (a base trained on in float16 and evaluated in
bfloat16 is the same base), so values are compared to within rounding and not by a hash.
4-bit layers no longer hold their values; theirs are read from the checkpoint file, and
left out where there is none.
"""

from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from mathsft.models.folders import model_files
from mathsft.models.sharding import whole

IDENTITY_FILE = "base_identity.json"
SAMPLES = 8  # per tensor; some 2,000 values, 40 kB of JSON, for a model of 24 layers
# Rounding to bfloat16 moves a value by at most 2**-8 = 0.0039 of it; below 2**-14 float16 has
# steps of 6e-8.
RELATIVE, ABSOLUTE = 0.005, 1e-7


def base_identity(base: PreTrainedModel) -> dict[str, Any]:
    """The record kept beside an adapter: name, architecture and `samples` per tensor.

    `base` may carry LoRA layers; their own weights are left out.
    """
    return {
        "name": base.name_or_path,
        "architecture": type(base).__name__,
        "samples": _samples(base),
    }


def identity_differences(identity: dict[str, Any], base: PreTrainedModel) -> tuple[list[str], int]:
    """Tensors of `base` that are not those of the record, and how many were compared.

    Returns readable differences, one per tensor. A tensor that only one side could sample
    is not compared. A base whose every sampled value moved by less than 0.5 % passes.
    """
    return sample_differences(identity["samples"], _samples(base))


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


def _positions(shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Indices spread over the diagonal of a tensor, so over rows and columns alike."""
    return [tuple(k * size // SAMPLES for size in shape) for k in range(SAMPLES)]


def _samples(base: PreTrainedModel) -> dict[str, list[float]]:
    samples: dict[str, list[float]] = {}
    packed = []
    for name, parameter in base.named_parameters():
        if ".lora_" in name:
            continue
        name = name.replace(".base_layer.", ".")
        if not parameter.is_floating_point():
            packed.append(name)
            continue
        index = torch.tensor(_positions(tuple(parameter.shape))).T
        values = whole(parameter.detach())[tuple(index.to(parameter.device))]
        samples[name] = values.float().tolist()
    if packed:
        samples |= _stored_samples(base, packed)
    return samples


def _stored_samples(base: PreTrainedModel, names: list[str]) -> dict[str, list[float]]:
    """Values of the tensors as the checkpoint holds them; {} where there is no checkpoint."""
    from safetensors import safe_open

    samples = {}
    for path in _checkpoint_files(base):
        with safe_open(path, framework="pt") as tensors:
            for name in set(names) & set(tensors.keys()):
                part = tensors.get_slice(name)
                samples[name] = [
                    part[tuple(slice(i, i + 1) for i in position)].float().item()
                    for position in _positions(tuple(part.get_shape()))
                ]
    return samples


def _checkpoint_files(base: PreTrainedModel) -> list[Path]:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    if not base.name_or_path:
        return []
    folder = Path(base.name_or_path)
    if not folder.is_dir():
        revision = getattr(base.config, "_commit_hash", None)
        try:
            config = try_to_load_from_cache(base.name_or_path, "config.json", revision=revision)
        except HFValidationError:  # a folder that is gone, not a hub name
            return []
        if not isinstance(config, str):
            return []
        folder = Path(config).parent
    return [path for path in model_files(folder) if path.suffix == ".safetensors"]
