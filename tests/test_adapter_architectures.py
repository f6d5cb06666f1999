"""Adapters of other architectures, with other layer names, are also restored exactly."""

from pathlib import Path
from typing import Any

import pytest
import torch
from adapter_variants import steps
from peft import LoraConfig, PeftModel, get_peft_model
from test_isolation import FAITHFUL, small
from transformers import AutoModelForCausalLM

from mathsft.models.adapters import load_adapter, save_adapter
from mathsft.models.isolation import check_isolation

ROWS = torch.arange(3, 51).reshape(2, 24)
LAYERS = {
    "gpt2": ("c_attn", "wte", "lm_head", "ln_f"),
    "phi": ("q_proj", "embed_tokens", "lm_head", "final_layernorm"),
}
USUAL = ("q_proj", "embed_tokens", "lm_head", "norm")


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=ROWS, use_cache=False).logits.float()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("new_words", [0, 4])
@pytest.mark.parametrize("kind", FAITHFUL)
def test_an_adapter_with_parts_of_every_sort_comes_back(
    tmp_path: Path, kind: str, new_words: int
) -> None:
    projection, embedding, head, norm = LAYERS.get(kind, USUAL)
    small(kind, FAITHFUL[kind]).save_pretrained(tmp_path / "base")

    def fresh() -> Any:
        # transformers on Colab would use sdpa, which ignores Gemma 2's cap on scores.
        how = {"attn_implementation": "eager"} if kind == "gemma2" else {}
        return AutoModelForCausalLM.from_pretrained(tmp_path / "base", **how)

    def resized() -> Any:
        model = fresh()
        if new_words:
            model.resize_token_embeddings(120 + new_words)
        return model

    torch.manual_seed(1)
    config = LoraConfig(
        r=4,
        target_modules=[projection, embedding],
        modules_to_save=[norm, head],
        bias="all",
        fan_in_fan_out=kind == "gpt2",  # its linear layers are stored transposed
        task_type="CAUSAL_LM",
    )
    model = steps(get_peft_model(resized(), config), rows=ROWS)
    check_isolation(model)
    expected = logits(model)
    save_adapter(model, tmp_path / "adapter")
    assert torch.equal(logits(load_adapter(fresh(), tmp_path / "adapter")), expected)
    plain = PeftModel.from_pretrained(resized(), str(tmp_path / "adapter"))
    assert torch.equal(logits(plain), expected)
