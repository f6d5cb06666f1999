"""An adapter in memory: its tensors, its effect on the logits, and comparison with its files."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from peft import PeftModel, PeftType, get_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import safe_open
from torch import nn
from transformers import PreTrainedModel

from mathsft.models.adapter_files import is_adapters_own, some
from mathsft.models.model_files import has_new_vocabulary, model_files, vocabulary
from mathsft.models.modes import evaluating

State = dict[str, torch.Tensor]


def has_adapter(model: torch.nn.Module) -> bool:
    """Return whether the model has adapter layers, wrapped by `peft` or injected."""
    return isinstance(model, PeftModel) or any(
        isinstance(module, BaseTunerLayer) for module in model.modules()
    )


def soft_prompt_length(model: torch.nn.Module) -> int:
    """Return how many trained vectors peft puts before each text (prompt tuning); 0 without any.

    Raises ValueError for peft's other methods of this kind, such as prefix tuning.
    """
    if not isinstance(model, PeftModel) or not model.active_peft_config.is_prompt_learning:
        return 0
    config: Any = model.active_peft_config
    if config.peft_type != PeftType.PROMPT_TUNING:
        raise ValueError(
            f"{config.peft_type.value}: of peft's soft prompts, only PromptTuningConfig is read"
        )
    return int(config.num_virtual_tokens)


def with_soft_prompt(model: Any, ids: torch.Tensor, seen: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return embeddings (B, L, H) of ``ids`` with the vectors at each row's first real places.

    peft's own ``generate`` puts them before the padding, and positions then count the padding.
    """
    embeddings = model.get_input_embeddings()(ids)
    vectors = model.get_prompt(batch_size=len(ids)).detach().to(embeddings.dtype)
    for row, start in enumerate(seen.argmax(dim=1).tolist()):
        embeddings[row, start : start + vectors.shape[1]] = vectors[row]
    return {"inputs_embeds": embeddings}


def base_of(model: PeftModel) -> PreTrainedModel:
    """Return the model inside the wrapper; its projections still contain the adapter's layers."""
    return cast(PreTrainedModel, model.get_base_model())


def adapter_state(model: PeftModel, *, embeddings: bool | None = None) -> State:
    """Return the adapter's tensors under the keys of its file.

    ``embeddings``: whether to include the base's embedding and output head. By default they are
    included if the vocabulary was resized, because the base on disk then lacks rows. (peft checks
    this too, but on the hub, and if the head is separate from the embedding it may leave one of
    them out. It also saves a base embedding that LoRA adapts: 0.27 GB for Qwen2.5-0.5B in half
    precision, instead of 5 MB.)
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
    """Return the base's embedding and output head, under the keys that peft would use.

    A layer is left out if the adapter has its own copy of it (``modules_to_save``).
    """
    return {
        name: parameter.detach()
        for name, parameter in _embedding_parameters(model)
        if not is_adapters_own(name) and "original_module" not in name.split(".")
    }


def brought_tensors(model: PeftModel) -> list[torch.Tensor]:
    """Return the tensors that loading the adapter restores; the base on disk may differ in them.

    The base of a reward model has a random head, which the adapter's own head replaces.
    """
    state = adapter_state(model)
    resized = has_new_vocabulary(base_of(model))
    head = getattr(getattr(base_of(model), "score", None), "original_module", nn.Module())
    return [
        *state.values(),
        *head.parameters(),
        *(p for _, p in _embedding_parameters(model) if resized),
    ]


def _embedding_parameters(model: PeftModel) -> list[tuple[str, torch.Tensor]]:
    layers = (model.get_input_embeddings(), model.get_output_embeddings())
    inside = tuple(f"{name}." for name, module in model.named_modules() if module in layers)
    named = model.named_parameters(remove_duplicate=False)
    return [(name, parameter) for name, parameter in named if name.startswith(inside)]


def check_restored(model: PeftModel, state: State, what: str) -> None:
    """Raise ValueError unless the adapter in memory equals the one in the file ``what``.

    A file that peft wrote may hold embeddings that need not be saved. Base tensors that the
    adapter brings with it, such as a trained embedding, are rounded to the base's dtype.
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
        raise ValueError(f"{what}: {len(odd)} tensors differ from what was expected ({some(odd)})")


def check_finite(state: State, what: str) -> None:
    """Raise ValueError if the adapter holds values that are not finite (training diverged)."""
    for key, tensor in state.items():
        if not torch.isfinite(tensor).all():
            raise ValueError(
                f"{what}: {key} holds values that are not finite; train it again from the base, "
                "with a lower learning rate"
            )


def check_saved_model(folder: Path, state: State) -> None:
    """Raise ValueError unless the weight files hold exactly the tensors of the state dict.

    A tied weight (an output head that is also the embedding) is stored once.
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
    """Return the largest logit change that the adapter makes on a short sequence (`probe_ids`).

    Raises ValueError if no logit changes (the model is then just its base), or if a logit is not
    finite.
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
    """Switch the adapter off inside; trained biases and a new vocabulary cannot be switched off."""
    # At the end of its context peft makes the adapter trainable, even if it was frozen before.
    trainable = [parameter.requires_grad for parameter in model.parameters()]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Careful, disabling adapter layers with bias")
        with model.disable_adapter():
            yield
    for parameter, flag in zip(model.parameters(), trainable, strict=True):
        parameter.requires_grad_(flag)


@torch.no_grad()
def probe_ids(model: Any) -> torch.Tensor:
    """Return ids (1, 16 to 32) that reveal an adapter: the vocabulary's first, and changed ones.

    An adapted embedding changes only for the tokens that were in the training rows.
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
    """Return float32 logits (1, T, vocabulary) of one sequence, ids (1, T), in eval mode."""
    with evaluating(model), torch.no_grad():
        return model(input_ids=ids, use_cache=False).logits.float()
