"""Small models with an adapter of any kind whose effect is not zero."""

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model

from mathsft.models.loading import load_model


def adapted(folder: Path, **arguments: Any) -> Any:
    defaults = {"r": 2, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"}
    torch.manual_seed(0)
    model = get_peft_model(
        load_model(folder, device="cpu")[0], LoraConfig(**{**defaults, **arguments})
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name or "lora_embedding_A" in name:
                parameter.normal_(0, 0.1)
    return model.eval()
