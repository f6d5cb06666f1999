"""LoRA adapters that cannot fail to load without a word.

`peft` warns where an adapter's keys do not match and goes on with the base model, whose
scores then pass for the tuned ones. Here everything that could end in that way raises.
"""

import json
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
from mathsft.models.merging import merge_adapter as merge_adapter  # one place for all four
from mathsft.models.model_files import (
    ADAPTER_WEIGHTS,
    add_recorded_stops,
    holds_model,
    replaced_folder,
    save_text_files,
    vocabulary,
)
from mathsft.models.saving import check_saveable
from mathsft.models.trained_weights import (
    adapted_weights,
    fit_to_model,
    lora_config,
    mixture_weights,
)
from mathsft.processes import check_not_emptied, in_first, local, places, say, whole


def add_adapter(
    model: PreTrainedModel, config: LoraConfig | None = None, *, seed: int = 0, **settings: Any
) -> PeftModel:
    """Wrap `model` with a new LoRA adapter (Hu et al. 2021, arXiv:2106.09685) to be trained.

    The adapted output is ``W x + (lora_alpha / r) B A x`` with A (r, in) random and B (out, r)
    zero, so a new adapter changes nothing yet; ``lora_dropout`` drops that share of x. A and B
    are float32 whatever the dtype of the model; everything else is frozen.

    Args:
        config: peft's `LoraConfig`, taken as it is. peft's defaults then hold, not ours.
        seed: makes A the same in every run, and leaves the global random state as it was.
        settings: single settings of `LoraConfig`; those not given are ``r=16, lora_alpha=32,
            lora_dropout=0.05, target_modules="all-linear"`` and peft's own. "all-linear" is every
            linear layer but the output head, whatever the model calls them
            (`mathsft.models.trained_weights`). The experts of a mixture are no linear layers: a
            line says how many weights get no adapter.

    Raises ValueError if the model has an adapter already or lacks one of the modules that are
    named, for a setting that `LoraConfig` does not have, and for a number that cannot be meant.
    What could not be saved and loaded again is refused before training (`check_saveable`).
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
    # peft draws on the CPU and moves the result, so the CPU's generator is the one that counts.
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

    With a `tokenizer` its files, its chat template, and a generation config that names every stop
    are written as well (`mathsft.models.model_files`). `load_adapter` and `evaluate` read them, so
    that a chat-tuned adapter is asked in its own template and stops where its turns end. Without
    one, whoever loads the adapter has to take the right tokenizer.

    `folder` appears whole or not at all; what was written is read back and compared. An
    adapter that is there already is replaced.

    In several processes it is called in each: process 0 writes, the others wait. Weights that
    are sharded over them (FSDP) are gathered first, so that one process can load the file.

    With a resized vocabulary the embedding and the output head are part of the file.

    Raises ValueError for what `load_adapter` could not give back (`mathsft.models.saving`; the
    trainers ask the same before training), values that are not finite, a folder that holds a
    full model or files of another kind, weights that DeepSpeed's ZeRO-3 has sharded, or a file
    that is not what is in memory.
    """
    folder = Path(folder)
    check_not_emptied(model)
    check_saveable(model)
    if folder.is_dir() and holds_model(folder):
        raise ValueError(
            f"{folder} holds a full model: an adapter beside it could be applied twice or not at "
            "all. Choose a folder of its own"
        )
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
            # Once more, as peft leaves out a part of a resized vocabulary (`adapter_state`). A
            # copy of each: the format has no shared tensors.
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
    """Put a saved LoRA adapter on `base`, after checking that it is whole and belongs there.

    `folder` may be a hub name (with `revision`); `is_trainable` lets the adapter be trained on.
    The base is not touched before the keys, shapes and the base's identity have been checked.
    Adapters saved by `save_adapter` carry that identity; one from elsewhere is checked by keys
    and shapes alone. If the adapter was trained with a resized vocabulary, `base` is resized to
    it, and a line says so. In the end the logits with and without the adapter must differ.

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
    rows = check_fit(state, config, base, where)
    check_base(base, where)
    if rows != vocabulary(base.config):
        say(f"vocabulary: {vocabulary(base.config):,} embeddings, {rows:,} with the adapter's")
        base.resize_token_embeddings(rows, mean_resizing=False)  # the rows come from the file
    model = PeftModel.from_pretrained(base, str(where), is_trainable=is_trainable)
    check_restored(model, state, f"{where} as loaded")
    adapter_effect(model)
    add_recorded_stops(base, where)
    return model
