"""LoRA adapters that cannot fail to load without a word.

`peft` warns where an adapter's keys do not match and goes on with the base model, whose
scores then pass for the tuned ones. Here everything that could end in that way raises.
"""

import json
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mathsft.models.adapter_checks import (
    DOUBLY_WRAPPED,
    adapter_effect,
    adapter_state,
    base_of,
    check_base,
    check_equal,
    check_fit,
    check_saved_model,
    local_adapter,
    probe_logits,
    read_config,
    some,
)
from mathsft.models.folders import ADAPTER_WEIGHTS, holds_adapter, holds_model, replaced_folder
from mathsft.models.identity import IDENTITY_FILE, base_identity
from mathsft.models.sharding import check_not_emptied, is_sharded, local, whole
from mathsft.processes import in_first

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
# Largest change of a logit by merging, as a share of the largest logit: rounding the sum of
# weight and adapter to the weights' dtype, through all layers.
_MERGE_TOLERANCE = {torch.float32: 1e-4, torch.float16: 0.02, torch.bfloat16: 0.1}


def has_adapter(model: torch.nn.Module) -> bool:
    """Whether the model carries adapter layers, wrapped by `peft` or injected."""
    return isinstance(model, PeftModel) or any(
        isinstance(module, BaseTunerLayer) for module in model.modules()
    )


def add_adapter(
    model: PreTrainedModel,
    *,
    r: int = 16,
    lora_alpha: int = 32,
    lora_dropout: float = 0.05,
    target_modules: tuple[str, ...] = PROJECTIONS,
    seed: int = 0,
) -> PeftModel:
    """Wrap `model` with a new LoRA adapter (Hu et al. 2021, arXiv:2106.09685) to be trained.

    The adapted output is ``W x + (lora_alpha / r) B A x`` with A (r, in) random and B (out, r)
    zero, so a new adapter changes nothing yet; `lora_dropout` drops that share of x.
    All seven projections are adapted, as in QLoRA (arXiv:2305.14314, section 4), where
    adapting attention alone fell short. A and B are float32 whatever the dtype of the model;
    everything else is frozen. `seed` makes A the same in every run and leaves the global random
    state as it was.

    Raises ValueError if the model has an adapter already, or lacks one of `target_modules`.
    """
    if has_adapter(model):
        raise ValueError(
            "the model has an adapter already. A second one around it would be saved under keys "
            "that no loader matches. Load the base again, or merge_adapter(model) first"
        )
    last_names = {name.rpartition(".")[2] for name, _ in model.named_modules()}
    absent = [name for name in target_modules if name not in last_names]
    if absent:
        raise ValueError(f"{type(model).__name__} has no module named {', '.join(absent)}")
    config = LoraConfig(
        r=r,
        lora_alpha=lora_alpha,
        lora_dropout=lora_dropout,
        target_modules=list(target_modules),
        task_type="CAUSAL_LM",
    )
    # peft draws on the CPU and moves the result, so the CPU's generator is the one that counts.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return get_peft_model(model, config)  # float32: peft's autocast_adapter_dtype


def save_adapter(model: PeftModel, folder: str | Path) -> Path:
    """Write the adapter alone: weights (safetensors), its config, and its base's identity.

    `folder` appears whole or not at all; what was written is read back and compared. An
    adapter that is there already is replaced.

    In several processes it is called in each: process 0 writes, the others wait. Weights that
    are sharded over them (FSDP) are gathered first, so that one process can load the file.

    Raises ValueError if the folder holds a full model or files of another kind, if the
    model was wrapped twice or has several adapters, if weights outside of the adapter were
    trained (they would be lost), if DeepSpeed's ZeRO-3 has sharded the weights, or if the file
    does not give back what is in memory.
    """
    folder = Path(folder)
    check_not_emptied(model)
    state = adapter_state(model)
    if any(key.startswith(DOUBLY_WRAPPED) for key in state):
        raise ValueError(
            "the model was wrapped with an adapter twice (get_peft_model on a PeftModel): its keys "
            "would match no base. Build it again from the base, with one add_adapter"
        )
    kept = {local(tensor).data_ptr() for tensor in state.values()}
    lost = [
        name
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and local(parameter).data_ptr() not in kept
    ]
    if lost:
        raise ValueError(
            f"{len(lost)} trained weights are not part of the adapter and would be lost: "
            f"{some(lost)}. Save the full model, or freeze them"
        )
    if folder.is_dir() and holds_model(folder):
        raise ValueError(
            f"{folder} holds a full model: an adapter beside it could be applied twice or not at "
            "all. Choose a folder of its own"
        )
    state = {key: whole(tensor) for key, tensor in state.items()}
    identity = base_identity(base_of(model))
    sharded = {
        name: whole(parameter)
        for name, parameter in model.named_parameters()
        if is_sharded(parameter) and parameter.requires_grad
    }

    def write() -> None:
        with replaced_folder(folder) as new:
            model.save_pretrained(str(new), save_embedding_layers=False, state_dict=sharded or None)
            text = json.dumps(identity, indent=1) + "\n"
            (new / IDENTITY_FILE).write_text(text, encoding="utf-8")
            check_equal(load_file(new / ADAPTER_WEIGHTS), state, "the adapter file just written")

    in_first(write, device=next(model.parameters()).device.type)
    return folder


def load_adapter(
    base: PreTrainedModel,
    folder: str | Path,
    *,
    is_trainable: bool = False,
    revision: str | None = None,
) -> PeftModel:
    """Put a saved LoRA adapter on `base`, after checking that it is whole and belongs there.

    `folder` may be a hub name (with `revision`); `is_trainable` lets the adapter be trained on.
    The base is not touched before the keys,
    shapes and the base's identity have been checked. Adapters saved by `save_adapter` carry
    that identity; one from elsewhere is checked by keys and shapes alone. In the
    end the logits with and without the adapter must differ.

    Raises FileNotFoundError if an expected file is absent; ValueError if `base` has an
    adapter, a key is missing or left over, a shape differs, the base is another one, the
    file is damaged or not finite, or the adapter does nothing.
    """
    if has_adapter(base):
        raise ValueError(
            "the model has an adapter already; a second one on top would be added to it. "
            "Load the base again with load_model"
        )
    where = local_adapter(folder, revision)
    config = read_config(where)
    state = load_file(where / ADAPTER_WEIGHTS)
    check_fit(state, config, base, where)
    check_base(base, where)
    model = PeftModel.from_pretrained(base, str(where), is_trainable=is_trainable)
    check_equal(adapter_state(model), state, f"{where} as loaded")
    adapter_effect(model)
    return model


def merge_adapter(
    model: PeftModel,
    folder: str | Path | None = None,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> PreTrainedModel:
    """Add the adapter into the base's weights; save the full model if a `folder` is given.

    A `tokenizer` is saved with it. `model` is used up: go on with the model that is returned.
    The logits before and after are compared.

    A 4-bit base is refused. Its weights have 16 levels per block; the sum of weight and
    adapter would be rounded to them again and lose a good part of the adapter (peft issue
    2321). Load the base without `quantize`, put the adapter on it, and merge that.

    Raises ValueError if there is no adapter, the adapter does nothing, the base is
    quantised, the folder holds an adapter or other files, or merging changes the logits by
    more than rounding does, or by more than a tenth of what the adapter changes (the model is
    then spoilt: load it again).
    """
    if not isinstance(model, PeftModel):
        raise ValueError("the model has no adapter, so there is nothing to merge")
    base = base_of(model)
    if getattr(base, "is_quantized", False):
        raise ValueError(
            "the base is quantised, and merging would round the adapter to its few levels. "
            "Load it with quantize=False, load_adapter, then merge_adapter"
        )
    target = None if folder is None else Path(folder)
    if target is not None and target.is_dir() and holds_adapter(target):
        raise ValueError(
            f"{target} holds an adapter: a loader would add it once more to the merged weights. "
            "Choose a folder of its own"
        )
    effect = adapter_effect(model)
    before = probe_logits(model)
    dtype = base.dtype
    merged = model.merge_and_unload(safe_merge=True)
    error = (probe_logits(merged) - before).abs().max().item()
    allowed = _MERGE_TOLERANCE.get(dtype, 1e-4) * before.abs().max().item()
    if not error <= min(allowed, effect / 10):
        raise ValueError(
            f"merging changed the logits by {error:.2g}; the adapter itself changes them by "
            f"{effect:.2g}, of which a tenth may be lost, and {allowed:.2g} is the most that "
            f"rounding to {dtype} explains. "
            "Load base and adapter again with dtype='float32' and merge there"
        )
    # The weights are no longer those of the base whose name the model bears.
    merged.name_or_path = merged.config._name_or_path = "" if target is None else str(target)
    if target is not None:
        with replaced_folder(target) as new:
            merged.save_pretrained(new)
            if tokenizer is not None:
                tokenizer.save_pretrained(new)
            check_saved_model(new, merged.state_dict())
    return merged
