"""Models with a head in place of the vocabulary: reward models and classifiers.

They are transformers' own classes for sequence classification. Their head, ``score``, is one
product from the hidden state to a few numbers. It is always in float32, like an adapter: it is
small, and steps of training would be lost in half precision.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from mathsft.checks import at_least, check_number, check_numbers
from mathsft.data.labelled import ProblemType
from mathsft.models.adapters import add_adapter
from mathsft.models.heads import classifies
from mathsft.models.loading import load_base, lora_settings
from mathsft.models.pretrained import model_config
from mathsft.processes import say


def load_reward_model(
    name: str | Path = "tiny",
    *,
    num_labels: int = 1,
    problem_type: ProblemType | None = None,
    quantize: bool = False,
    lora: bool | dict[str, Any] | LoraConfig = False,
    seed: int = 0,
    dtype: torch.dtype | str | None = None,
    attn_implementation: str | None = None,
    device: torch.device | str | None = None,
    revision: str | None = None,
    chat_template_path: str | Path | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a model for sequence classification and its tokenizer: a reward model, or a classifier.

    Args:
        name: "tiny", a folder, or a hub name: of a language model, which gets a new head, or of a
            model that already has one (`save_model` writes it).
        num_labels: how many numbers the head gives: 1 for a reward, 2 or more for classes.
        problem_type: what the outputs mean, for transformers' own losses and pipelines; for a
            classifier, `mathsft.data.labelled.head_for` gives both from the rows.
        quantize: as in `load_model`; the head is never in 4 bits.
        lora: as in `load_model`. The head is trained with the adapter and saved beside it (peft's
            ``modules_to_save``).
        seed: of a new head: normal with the model's ``initializer_range``. A line says if the head
            is new.
        dtype: of the weights except the head, which is in float32.
        attn_implementation: as in `load_model`.
        device: as in `load_model`.
        revision: as in `load_model`.
        chat_template_path: as in `load_model`.

    `load_adapter` puts a saved adapter with its head onto this model again.

    The rewards are read by position (`mathsft.objectives.reward`). transformers' own ``forward``
    searches for the last token that is not the padding token. If the stop token is also used for
    padding, as here in "tiny", it reads the head *before* the stop token: give it a
    ``pad_token_id`` of its own before you compare.

    Raises:
        ValueError: the model has a head with another number of outputs; what `load_model` raises.
        FileNotFoundError, OSError: as `load_model`.
    """
    check_number("num_labels", num_labels, at_least(1))
    check_numbers({"seed": seed})
    settings = _head_settings(lora)
    config = model_config(name, revision)
    fresh = not classifies(config)
    if not fresh and config.num_labels != num_labels:
        raise ValueError(
            f"{name}: its head has {config.num_labels} outputs, and {num_labels} were asked for: "
            f"give num_labels={config.num_labels}, or the language model that it was made from"
        )
    kept = problem_type or config.problem_type
    with _quiet() if fresh else nullcontext():
        model, tokenizer = load_base(
            name,
            quantize=quantize,
            dtype=dtype,
            attn_implementation=attn_implementation,
            device=device,
            revision=revision,
            chat_template_path=chat_template_path,
            num_labels=num_labels,
            problem_type=kept,
        )
    if fresh:
        std = getattr(model.config.get_text_config(), "initializer_range", 0.02)
        weight = torch.empty(model.score.weight.shape)
        weight.normal_(std=std, generator=torch.Generator().manual_seed(seed))
        model.score.weight.data = weight.to(model.score.weight.device)
        say(f"{name}: the head score is new ({num_labels} x {weight.shape[1]}, seed {seed})")
    model.score.float()
    model.score.register_forward_pre_hook(_in_its_dtype)
    if settings is not None:
        model = add_adapter(model, **settings)
    return model, tokenizer


def loading_line(
    name: str | Path, kept: Path, *, num_labels: int = 1, revision: str | None = None
) -> str:
    """The Python line that loads what a run of the base ``name`` has saved in the folder."""
    adapter = kept.name == "adapter"
    given = [repr(str(name if adapter else kept))]
    given += [f"num_labels={num_labels}"] * (num_labels != 1)
    given += [f"revision={revision!r}"] * (adapter and revision is not None)
    line = f"model, tokenizer = load_reward_model({', '.join(given)})"
    return line + f"; model = load_adapter(model, {str(kept)!r})" * adapter


def _head_settings(lora: bool | dict[str, Any] | LoraConfig) -> dict[str, Any] | None:
    """Settings of `add_adapter` for this kind of model: peft then trains the head as well."""
    settings = lora_settings(lora)
    if settings is None:
        return None
    if "config" in settings:
        settings["config"].task_type = "SEQ_CLS"
        return settings
    return {**settings, "task_type": "SEQ_CLS"}


def _in_its_dtype(head: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Give the float32 head the hidden states of a model in half precision."""
    return (given[0].float(), *given[1:])


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide transformers' report that the head is new: a line of ours says it."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)
