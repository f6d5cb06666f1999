"""LoRA adapters that never fail to load silently.

If an adapter's keys do not match, `peft` warns and continues with the base model. The base's
scores are then mistaken for those of the tuned model. Here every such case raises an error.
"""

import json
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mathsft.checks import check_numbers
from mathsft.models.adapter_checks import (
    adapter_effect as adapter_effect,
)
from mathsft.models.adapter_checks import (
    adapter_state,
    base_of,
    brought_tensors,
    check_equal,
    check_finite,
    check_restored,
    has_adapter,
)
from mathsft.models.adapter_files import (
    IDENTITY_FILE,
    base_identity,
    is_adapters_own,
    local_adapter,
    read_config,
)
from mathsft.models.adapter_fit import check_base, check_fit
from mathsft.models.folders import replaced_folder
from mathsft.models.merging import merge_adapter as merge_adapter  # one place for all four
from mathsft.models.model_files import (
    ADAPTER_WEIGHTS,
    add_recorded_stops,
    check_folder,
    save_text_files,
    vocabulary,
)
from mathsft.models.saving import check_saveable
from mathsft.models.sharding import check_not_emptied, local, places, whole
from mathsft.models.trained_weights import (
    adapted_weights,
    fit_to_model,
    lora_config,
    mixture_weights,
)
from mathsft.processes import in_first, say


def add_adapter(
    model: PreTrainedModel, config: LoraConfig | None = None, *, seed: int = 0, **settings: Any
) -> PeftModel:
    """Wrap `model` with a new LoRA adapter for training (Hu et al. 2021, arXiv:2106.09685).

    The adapted output is ``W x + (lora_alpha / r) B A x`` with A (r, in) random and B (out, r)
    zero, so a new adapter changes nothing yet. ``lora_dropout`` is the share of x that is dropped
    before A. A and B are float32 for every dtype of the model; everything else is frozen.

    Args:
        config: peft's `LoraConfig`. peft's defaults then apply, not ours.
        seed: makes A the same in every run; the global random state does not change.
        settings: single settings of `LoraConfig`. The defaults are ``r=16, lora_alpha=32,
            lora_dropout=0.05, target_modules="all-linear"``, and peft's own for the rest.
            "all-linear" is every linear layer except the output head, with any names
            (`mathsft.models.trained_weights`). A mixture's experts are not linear layers: a
            printed line says how many weights get no adapter.

    Raises ValueError if the model already has an adapter or lacks a module that is named, for a
    setting that `LoraConfig` does not have, and for an impossible number. An adapter that could
    not be saved and loaded again is refused before training (`check_saveable`).
    """
    check_numbers({"seed": seed})
    config = lora_config(config, **settings)
    if has_adapter(model):
        raise ValueError(
            "the model has an adapter already. A second one around it would be saved under keys "
            "that no loader matches. Load the base again, or merge_adapter(model) first"
        )
    config = fit_to_model(config, model)
    weights = mixture_weights(model)
    # peft draws A on the CPU and then moves it, so only the CPU's generator matters.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        adapted = get_peft_model(model, config)  # float32: peft's autocast_adapter_dtype
    left = sum(weights[name] for name in weights.keys() - adapted_weights(adapted))
    if left:
        say(
            f"LoRA: {left:,} weights of the mixture's experts and linear layers get no adapter; "
            "target_parameters names the experts' weights to adapt"
        )
    return adapted


def save_adapter(
    model: PeftModel, folder: str | Path, *, tokenizer: PreTrainedTokenizerBase | None = None
) -> Path:
    """Write the adapter alone: weights (safetensors), its config, and its base's identity.

    With a `tokenizer`, its files, its chat template, and a generation config that names every stop
    token are written too (`mathsft.models.model_files`). `load_adapter` and `evaluate` read them,
    so a chat-tuned adapter is prompted in its own template and stops where its turns end. Without
    a `tokenizer`, the user who loads the adapter must choose the right one.

    `folder` is written completely or not at all. What was written is read back and compared. An
    existing adapter is replaced; a README.md and hidden files beside it stay, and so does a link.

    With several processes, call it in each of them: process 0 writes, the others wait. Weights
    that are sharded over them (FSDP) are gathered first, so that one process can load the file.

    If the vocabulary was resized, the embedding and the output head are part of the file.

    Raises ValueError for an adapter that `load_adapter` could not restore
    (`mathsft.models.saving`; the trainers check the same before training), values that are not
    finite, a folder that holds a full model or files of another kind, weights that DeepSpeed's
    ZeRO-3 has sharded, or a file that differs from the adapter in memory.
    """
    folder = Path(folder)
    check_not_emptied(model)
    check_saveable(model)
    in_first(partial(check_folder, folder, holds="adapter"), device=model.device.type)
    state = adapter_state(model)
    kept = places(state.values())
    identity = base_identity(base_of(model), without=brought_tensors(model))
    state = {key: whole(tensor).detach() for key, tensor in state.items()}
    check_finite(state, "the adapter in memory")
    gathered = {
        name: whole(tensor)
        for name, tensor in model.state_dict().items()
        if is_adapters_own(name) or local(tensor).data_ptr() in kept
    }

    def write() -> None:
        with replaced_folder(folder) as new:
            model.save_pretrained(str(new), save_embedding_layers=False, state_dict=gathered)
            # Written again, as peft leaves out a part of a resized vocabulary (`adapter_state`).
            # Each tensor is copied, because the format allows no shared tensors.
            copies = {key: tensor.contiguous().clone() for key, tensor in state.items()}
            save_file(copies, new / ADAPTER_WEIGHTS, metadata={"format": "pt"})
            text = json.dumps(identity, indent=1) + "\n"
            (new / IDENTITY_FILE).write_text(text, encoding="utf-8")
            check_equal(load_file(new / ADAPTER_WEIGHTS), state, "the adapter file just written")
            if tokenizer is not None:
                save_text_files(new, model, tokenizer)

    in_first(write, device=next(model.parameters()).device.type)
    return folder


def load_adapter(
    base: PreTrainedModel,
    folder: str | Path,
    *,
    is_trainable: bool = False,
    revision: str | None = None,
) -> PeftModel:
    """Load a saved LoRA adapter onto `base`, after checking that it is complete and fits.

    `folder` may be a hub name (with `revision`); `is_trainable` allows further training.
    Keys, shapes and the base's identity are checked before the base is changed. Adapters saved
    by `save_adapter` include that identity; an adapter from elsewhere is checked only by keys
    and shapes. If the adapter was trained with a resized vocabulary, `base` is resized to match,
    and a printed line says so. Finally, the logits with and without the adapter must differ.

    Raises FileNotFoundError if an expected file is missing; ValueError if `base` already has an
    adapter, a key is missing or unexpected, a shape differs, the base is another one, the file
    is damaged or not finite, or the adapter does nothing.
    """
    if has_adapter(base):
        raise ValueError(
            "the model has an adapter already; a second one on top would be added to it. "
            "Load the base again with load_model"
        )
    where = local_adapter(folder, revision)
    config = read_config(where)
    state = load_file(where / ADAPTER_WEIGHTS)
    rows = check_fit(state, config, base, where)
    check_base(base, where)
    if rows != vocabulary(base.config):
        say(f"vocabulary: {vocabulary(base.config):,} embeddings, {rows:,} with the adapter")
        base.resize_token_embeddings(rows, mean_resizing=False)  # the rows come from the file
    model = PeftModel.from_pretrained(base, str(where), is_trainable=is_trainable)
    check_restored(model, state, f"{where} as loaded")
    adapter_effect(model)
    add_recorded_stops(base, where)
    return model
