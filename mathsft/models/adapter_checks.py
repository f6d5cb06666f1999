"""What an adapter in memory is and does: its tensors, its effect, and files compared with it."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from peft import PeftModel, get_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import safe_open
from torch import nn
from transformers import PreTrainedModel

from mathsft.models.adapter_files import is_adapters_own, some
from mathsft.models.model_files import has_new_vocabulary, model_files, vocabulary
from mathsft.models.modes import evaluating

State = dict[str, torch.Tensor]


def has_adapter(model: torch.nn.Module) -> bool:
    """Whether the model carries adapter layers, wrapped by `peft` or injected."""
    return isinstance(model, PeftModel) or any(
        isinstance(module, BaseTunerLayer) for module in model.modules()
    )


def base_of(model: PeftModel) -> PreTrainedModel:
    """The model inside the wrapper; its projections still carry the adapter's layers."""
    return cast(PreTrainedModel, model.get_base_model())


def adapter_state(model: PeftModel, *, embeddings: bool | None = None) -> State:
    """The adapter's tensors under the keys of its file.

    ``embeddings``: whether the base's embedding and output head belong to them. The default is
    to look whether the vocabulary was resized: the base on disk then lacks rows. (peft looks as
    well, but on the hub, and of a head apart from the embedding it may leave one out. It also
    keeps an embedding that LoRA adapts and that is the base's own: 0.27 GB of Qwen2.5-0.5B in
    half precision, in place of 5 MB.)
    """
    if not isinstance(model, PeftModel):
        raise ValueError("the model has no adapter; add one with add_adapter or load_adapter")
    if list(model.peft_config) != ["default"]:
        found = list(model.peft_config)
        raise ValueError(
            f"one adapter named 'default' is expected, found {found}: load the base again and "
            "call get_peft_model or load_adapter once, without a name"
        )
    if embeddings is None:
        embeddings = has_new_vocabulary(base_of(model))
    state: State = get_peft_model_state_dict(model, save_embedding_layers=False)
    return state | embedding_state(model) if embeddings else state


def embedding_state(model: PeftModel) -> State:
    """The base's embedding and output head, under the keys that peft would give them.

    Not if the adapter has one of its own in their place (``modules_to_save``).
    """
    return {
        name: parameter.detach()
        for name, parameter in _embedding_parameters(model)
        if not is_adapters_own(name) and "original_module" not in name.split(".")
    }


def brought_tensors(model: PeftModel) -> list[torch.Tensor]:
    """What of the base in memory a loaded adapter puts in place: not asked of the base on disk."""
    state = adapter_state(model)
    resized = has_new_vocabulary(base_of(model))
    return [*state.values(), *(p for _, p in _embedding_parameters(model) if resized)]


def _embedding_parameters(model: PeftModel) -> list[tuple[str, torch.Tensor]]:
    layers = (model.get_input_embeddings(), model.get_output_embeddings())
    inside = tuple(f"{name}." for name, module in model.named_modules() if module in layers)
    named = model.named_parameters(remove_duplicate=False)
    return [(name, parameter) for name, parameter in named if name.startswith(inside)]


def check_restored(model: PeftModel, state: State, what: str) -> None:
    """Raise ValueError unless the adapter in memory is what the file ``what`` holds.

    A file of peft's own may hold embeddings that did not have to be kept. What the adapter
    brings of the base, such as a trained embedding, is rounded to the base's dtype.
    """
    needed = adapter_state(model, embeddings=False)
    known = get_peft_model_state_dict(model, save_embedding_layers=True) | embedding_state(model)
    found = {key: known[key] for key in (known.keys() & state.keys()) | needed.keys()}
    rounded = {k: v.to(found[k].dtype) if k in found else v for k, v in state.items()}
    check_equal(found, rounded, what)


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


def check_finite(state: State, what: str) -> None:
    """Raise ValueError if the adapter is spoilt by a training that diverged."""
    for key, tensor in state.items():
        if not torch.isfinite(tensor).all():
            raise ValueError(
                f"{what}: {key} holds values that are not finite; train it again from the base, "
                "with a lower learning rate"
            )


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
    """Largest change that the adapter makes to a logit of a fixed short sequence (`probe_ids`).

    Raises ValueError if there is none, or if a logit is not finite: such a model is its base
    under another name, or no model at all.
    """
    ids = probe_ids(model)
    with_adapter = probe_logits(model, ids)
    with adapter_off(model):
        without = probe_logits(model, ids)
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


@contextmanager
def adapter_off(model: PeftModel) -> Iterator[None]:
    """The base inside, with what cannot be switched off: trained biases, a new vocabulary."""
    # On leaving its context peft makes the adapter trainable, whatever it was before.
    trainable = [parameter.requires_grad for parameter in model.parameters()]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Careful, disabling adapter layers with bias")
        with model.disable_adapter():
            yield
    for parameter, flag in zip(model.parameters(), trainable, strict=True):
        parameter.requires_grad_(flag)


@torch.no_grad()
def probe_ids(model: Any) -> torch.Tensor:
    """Token ids (1, 16 to 32) that show an adapter: the vocabulary's first, and changed ones.

    An adapted embedding is changed only for the tokens that were in the training rows.
    """
    words, device = vocabulary(model.config), model.device
    first = torch.arange(min(16, words), device=device)
    embedding = model.get_input_embeddings()
    if type(embedding) is nn.Embedding or not isinstance(model, PeftModel):
        return first[None]
    changed: list[torch.Tensor] = []
    for ids in torch.arange(words, device=device).split(8192):
        adapted = embedding(ids)
        with adapter_off(model):
            changed.append(ids[(adapted != embedding(ids)).any(-1)])
    return torch.cat([first, torch.cat(changed)[:16]])[None]


def probe_logits(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """float32 logits (1, T, vocabulary) of one sequence, ids (1, T), in eval mode."""
    with evaluating(model), torch.no_grad():
        return model(input_ids=ids, use_cache=False).logits.float()
