"""Everything that decides a model's output: all values of its tensors, and some settings.

Names do not distinguish two models, and neither do a few sampled weights: a single number may
differ anywhere. Even with equal weights, another ``lora_alpha`` or rotary base gives another
output. So everything that affects the output is hashed.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import AuxiliaryTrainingWrapper
from torch import Tensor

from mathsft.models.sharding import is_sharded, whole

AT_ONCE = 1 << 26  # bytes that are read together, so that no second copy of a large tensor is made
# Settings of a model's configuration that its output does not depend on: names, versions, ids of
# tokens (transformers fills them in when training begins), what is returned besides the logits,
# and precision and attention kernels, which depend on the device.
_NAMES = {
    "architectures", "attn_implementation", "auto_map", "bos_token_id", "chunk_size_feed_forward",
    "dtype", "eos_token_id", "experts_implementation", "id2label", "label2id", "name_or_path",
    "output_attentions", "output_hidden_states", "pad_token_id", "problem_type", "return_dict",
    "task_specific_params", "tokenizer_class", "torch_dtype", "transformers_version", "use_cache",
    "bnb_4bit_compute_dtype",
}  # fmt: skip
# Settings of an adapter's configuration that only say where it comes from.
_ADAPTER_NAMES = {
    "auto_mapping", "base_model_name_or_path", "inference_mode", "peft_version", "revision",
    "runtime_config",
}  # fmt: skip
# peft's wrappers keep the layer that they adapt under one of these names.
_INNER = {"base_layer", "original_module", "token_adapter"}


def plain(value: Any) -> Any:
    """Return ``value`` as JSON types, equal in every process: no addresses, no order of sets.

    An enumeration becomes its value, and a dataclass a dict of its fields. Any other object that
    JSON does not support becomes the name of its class.
    """
    if isinstance(value, Enum):
        return plain(value.value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, torch.dtype | Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(map(plain, value), key=str)
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    kind = value if isinstance(value, type) else type(value)
    return f"{kind.__module__}.{kind.__qualname__}"


def config_values(config: Any) -> dict[str, Any]:
    """Return the configuration values that a model's output depends on, nested ones included."""
    return {
        key: config_values(value) if isinstance(value, Mapping) else value
        for key, value in plain(config if isinstance(config, Mapping) else config.to_dict()).items()
        if key not in _NAMES and not key.startswith("_")
    }


def adapter_values(config: Any) -> dict[str, Any]:
    """Return an adapter's configuration values, without those that only say where it is from."""
    values = {k: v for k, v in plain(config).items() if k not in _ADAPTER_NAMES}
    for key in ("target_modules", "exclude_modules", "modules_to_save", "layers_to_transform"):
        if isinstance(values.get(key), list):  # their order does not matter
            values[key] = sorted(values[key], key=str)
    return values


def json_hash(value: Any) -> str:
    """Return the SHA-256 of ``value`` as JSON with sorted keys."""
    return hashlib.sha256(json.dumps(plain(value), sort_keys=True).encode()).hexdigest()


def tensors_hash(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """Return the SHA-256 of the tensors' names, dtypes, shapes and bytes, in any order.

    The bytes are read in parts of `AT_ONCE` bytes, as they are in memory: nothing is converted. A
    tensor with two names (tied weights) is read once. If a tensor is sharded, call this in every
    process.
    """
    known: dict[Any, str] = {}
    hashes = {}
    for name, tensor in tensors:
        same: Any = id(tensor)
        if not is_sharded(tensor):
            same = (tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride(), tensor.device)
        if not tensor.numel() or same not in known:
            known[same] = _tensor_hash(whole(tensor.detach()))
        hashes[name] = known[same]
    return json_hash(hashes)


def _tensor_hash(tensor: Tensor) -> str:
    digest = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
    rows = tensor.view(-1) if tensor.is_contiguous() else tensor
    if rows.numel():
        size = rows[0].numel() * rows.element_size()
        for part in rows.split(max(1, AT_ONCE // size)):
            values = part.contiguous().cpu().flatten()
            values = torch.view_as_real(values) if values.is_complex() else values
            digest.update(values.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def base_and_adapter(
    model: Any, *, saved: bool = False
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return all tensors of the base, under the base's own names, and all of its adapter.

    These are weights, buffers, and what a quantised layer keeps beside its packed bytes. Tied
    weights appear under each of their names. ``saved`` leaves out buffers that no checkpoint
    holds, such as rotary frequencies: a device computes them, and some models change them later.
    """
    inside = model.get_base_model() if isinstance(model, PeftModel) else model
    wrappers = {name for name, module in inside.named_modules() if _adapts(module)}
    tensors = {} if saved else dict(inside.named_buffers(remove_duplicate=False))
    tensors |= {k: v for k, v in inside.state_dict(keep_vars=True).items() if isinstance(v, Tensor)}
    base, adapter = {}, {}
    for name, tensor in tensors.items():
        parts = name.split(".")
        after = [part for i, part in enumerate(parts) if ".".join(parts[:i]) in wrappers]
        if all(part in _INNER for part in after):
            own = [part for i, part in enumerate(parts) if ".".join(parts[:i]) not in wrappers]
            base[".".join(own)] = tensor
        else:
            adapter[name] = tensor
    return base, adapter


def adapter_layers(model: Any) -> dict[str, dict[str, Any]]:
    """Return the current state of each adapted layer's adapter: scaling, merged, switched off."""
    inside = model.get_base_model() if isinstance(model, PeftModel) else model
    names = ("scaling", "merged_adapters", "disable_adapters", "active_adapters")
    return {
        name: {key: plain(getattr(module, key, None)) for key in names}
        for name, module in inside.named_modules()
        if _adapts(module)
    }


def _adapts(module: Any) -> bool:
    return isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper)
