"""Saving a model whose own weights were trained."""

from pathlib import Path

from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mathsft.models.adapter_checks import check_saved_model
from mathsft.models.adapters import has_adapter
from mathsft.models.checkpoint import save_text_files
from mathsft.models.model_paths import holds_adapter, replaced_folder
from mathsft.models.sharding import check_not_emptied, whole_state
from mathsft.processes import in_first


def save_model(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: str | Path
) -> Path:
    """Write the full model (safetensors), its generation config and its tokenizer.

    ``load_model(folder)`` gives it back. The folder appears whole or not at all; what was
    written is read back and compared. A model that is there already is replaced. The weights
    keep their dtype. In several processes it is called in each, as `save_adapter` is.

    Raises ValueError for a model with an adapter, 4-bit weights, or weights that DeepSpeed's
    ZeRO-3 has sharded, if the folder holds an adapter or files of another kind, or if a file
    does not give back what is in memory.
    """
    folder = Path(folder)
    if has_adapter(model):
        raise ValueError(
            "the model has an adapter: save_adapter writes that alone, and merge_adapter(model, "
            "folder, tokenizer=tokenizer) a full model with it"
            if isinstance(model, PeftModel)
            else "the model has adapter layers but is no peft.PeftModel: load the base again, and "
            "add the adapter with add_adapter or peft.get_peft_model"
        )
    if getattr(model, "is_quantized", False):
        raise ValueError(
            "4-bit weights are not what the checkpoint had, and nothing of them was trained, so "
            "there is nothing to save: load the base by its name again"
        )
    if folder.is_dir() and holds_adapter(folder):
        raise ValueError(
            f"{folder} holds an adapter: a loader could add it to these weights. Choose a folder "
            "of its own"
        )
    check_not_emptied(model)
    state = whole_state(model)

    def write() -> None:
        with replaced_folder(folder) as new:
            model.save_pretrained(new, state_dict=state)
            save_text_files(new, model, tokenizer)
            check_saved_model(new, state)

    in_first(write, device=model.device.type)
    # The weights are no longer those of the base whose name the model bears.
    model.name_or_path = model.config.name_or_path = str(folder)
    return folder
