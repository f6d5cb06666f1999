"""4-bit weights (NF4) by bitsandbytes, on a GPU and on a CPU alike."""

from importlib.util import find_spec
from typing import Any

import torch


def nf4_config(compute_dtype: torch.dtype) -> Any:
    """QLoRA's weights: NF4 with its constants quantised as well (arXiv:2305.14314, section 3).

    Raises ImportError without bitsandbytes.
    """
    from transformers import BitsAndBytesConfig

    if find_spec("bitsandbytes") is None:
        raise ImportError("quantize=True needs bitsandbytes: pip install bitsandbytes")
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute_dtype,
    )


def stay_trainable(model: torch.nn.Module) -> None:
    """Keeps 4-bit layers on the kernel that has a gradient, whatever passes come next.

    On CPUs with AVX512-BF16 bitsandbytes (0.50) repacks a layer's weights at its first pass in
    evaluation mode, for a kernel that computes in bfloat16 and has no gradient; it stays so in
    training. A model that was evaluated once then fails in its first training step, or,
    where its layers have no bias, would train without the gradient through them.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):  # bitsandbytes' Linear4bit
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]


def check_trainable(model: torch.nn.Module) -> None:
    """Raises ValueError where a layer is repacked already (see `stay_trainable`).

    It is not unpacked here: that is possible, and rounds the scales to bfloat16.
    """
    for name, module in model.named_modules():
        state = getattr(getattr(module, "weight", None), "quant_state", None)
        if getattr(state, "packing_format_for_cpu", False):
            raise ValueError(
                f"{name}: bitsandbytes has repacked this 4-bit layer for evaluation on this CPU, "
                "and so it has no gradient. Load the model again, with load_model, or train it "
                "before you call it in eval mode"
            )
