"""Check that a saved adapter is complete and fits this base, before the base is changed."""

import copy
import warnings
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from transformers import PreTrainedModel

from mathsft.files import read_json
from mathsft.models.adapter_checks import adapter_state, check_finite, embedding_state
from mathsft.models.adapter_files import IDENTITY_FILE, identity_differences, some, unwrapped_name
from mathsft.models.model_files import vocabulary

DOUBLY_WRAPPED = "base_model.model.base_model.model."
# Initialisations that leave the base unchanged. The others (PiSSA, OLoRA, CorDA, LoftQ, LoRA-GA)
# take a part out of the base's weights, and the adapter alone does not say which part.
STARTS = (True, False, "gaussian", "orthogonal", "eva", "mica")


def check_fit(
    state: dict[str, torch.Tensor], config: LoraConfig, base: PreTrainedModel, folder: Path
) -> int:
    """Compare the file's keys, shapes and values with what `base` and `config` require.

    Returns how many rows the base's embedding must have: as many as an embedding in the file has,
    or as many as it has now. Raises ValueError that names what is missing, unexpected, of another
    shape, or not finite.
    """
    twice = [key for key in state if key.startswith(DOUBLY_WRAPPED)]
    if twice:
        raise ValueError(
            f"{folder}: the adapter was wrapped twice, its keys start with {DOUBLY_WRAPPED}… "
            f"({twice[0]}). This happens when get_peft_model is called on a model that has an "
            "adapter, for example when a notebook cell runs twice. peft would load none of it and "
            "leave the base unchanged. Train it again from the base, with one add_adapter"
        )
    if config.init_lora_weights not in STARTS:
        raise ValueError(
            f"{folder}: this adapter started with init_lora_weights={config.init_lora_weights!r}, "
            "which takes a part out of the base's weights. Load it with "
            "peft.PeftModel.from_pretrained, which takes that part out again; merge_adapter then "
            "saves a full model"
        )
    rows = _embedding_rows(state, base)
    shape_of, needed = _expected_shapes(config, base, rows, folder)
    missing = sorted(needed - state.keys())
    left_over = sorted(state.keys() - shape_of.keys())
    if missing or left_over:
        parts = [
            f"{len(keys)} {kind} ({some(keys)})"
            for kind, keys in (("missing", missing), ("unexpected", left_over))
            if keys
        ]
        raise ValueError(
            f"{folder}: the adapter's keys do not match this base and its adapter_config.json: "
            f"{'; '.join(parts)}. It belongs to another base, or was saved incompletely"
        )
    shapes = [
        f"{key}: {tuple(tensor.shape)} in the file, {shape_of[key]} expected"
        for key, tensor in sorted(state.items())
        if tuple(tensor.shape) != shape_of[key]
    ]
    if shapes:
        raise ValueError(
            f"{folder} is an adapter of another base: {len(shapes)} of {len(state)} tensors have "
            f"other shapes ({some(shapes, 2)}). Its config names the base "
            f"{config.base_model_name_or_path!r} and r={config.r}"
        )
    check_finite(state, str(folder))
    return rows


def _embedding_rows(state: dict[str, torch.Tensor], base: PreTrainedModel) -> int:
    """Return the rows of the file's embedding or head, or those of `base` if it has neither."""
    layers = (base.get_input_embeddings(), base.get_output_embeddings())
    names = {f"{name}.weight" for name, module in base.named_modules() if module in layers}
    for key, tensor in state.items():
        if unwrapped_name(key.removeprefix("base_model.model.")) in names:
            return len(tensor)
    return vocabulary(base.config)


def _expected_shapes(
    config: LoraConfig, base: PreTrainedModel, rows: int, folder: Path
) -> tuple[dict[str, tuple[int, ...]], set[str]]:
    """Return the keys and shapes of the adapter's file, from a copy of the model without memory.

    On the real base, a failed attempt would leave layers behind. Also returns which of the keys
    are required: the base's embedding and head only if the vocabulary is new.
    """
    config, architecture = copy.deepcopy(config), copy.deepcopy(base.config)
    architecture.get_text_config().vocab_size = rows
    with torch.device("meta"):
        empty = type(base)(architecture)
        config.base_model_name_or_path = empty.name_or_path  # avoids a warning of peft
        try:
            wrapped = get_peft_model(empty, config)
        except ValueError as error:
            raise ValueError(
                f"{folder} is an adapter of another base: this one lacks the modules that it "
                f"adapts ({some(sorted(config.target_modules or []))}): {error}"
            ) from error
    state = adapter_state(wrapped, embeddings=False)
    brought = {key: tensor for key, tensor in embedding_state(wrapped).items() if key not in state}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        by_peft = get_peft_model_state_dict(wrapped, save_embedding_layers=True)
    shapes = {key: tuple(tensor.shape) for key, tensor in (by_peft | state | brought).items()}
    resized = rows != vocabulary(base.config)
    return shapes, state.keys() | (brought.keys() if resized else set())


def check_base(base: PreTrainedModel, folder: Path) -> None:
    """Raise ValueError if the identity stored beside the adapter is not that of `base`.

    An adapter from elsewhere has no such file; then only keys and shapes are checked.
    """
    path = folder / IDENTITY_FILE
    if not path.exists():
        return
    try:
        identity = read_json(path)
        differences, compared = identity_differences(identity, base)
        name = identity["name"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} cannot be read ({error}): copy the adapter again") from error
    if not compared:
        raise ValueError(
            f"{path} names no weight that {type(base).__name__} has, so the base cannot be "
            f"checked. The adapter was trained on {name!r}"
        )
    if differences:
        raise ValueError(
            f"{folder} is an adapter of another base: {len(differences)} of {compared} compared "
            f"weights differ ({some(differences, 2)}). It was trained on {name!r}, this model "
            f"is {base.name_or_path!r}"
        )
