"""4-bit layers train after an evaluation as they did before it, on any CPU."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from mathsft.models.adapters import add_adapter
from mathsft.models.loading import load_model
from mathsft.models.modes import evaluating
from mathsft.models.pretrained import check_trainable, nf4_config
from mathsft.training.arguments import training_arguments


def nf4_by_transformers(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, quantization_config=nf4_config(torch.float32)
    )


@pytest.mark.parametrize("loaded_by", ["us", "transformers"])
def test_a_4_bit_model_that_was_evaluated_trains_as_one_that_was_not(
    small_model_dir: Path, loaded_by: str
) -> None:
    """On CPUs with AVX512-BF16, bitsandbytes switches to a kernel without a gradient."""
    gradients = []
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    for evaluated in (False, True):
        if loaded_by == "us":
            model, _ = load_model(small_model_dir, quantize=True, device="cpu")
            if evaluated:
                with torch.no_grad():
                    model.eval()(input_ids=ids)
        else:
            model = nf4_by_transformers(small_model_dir)
        if evaluated:
            with evaluating(model), torch.no_grad():
                model(input_ids=ids)
        model = add_adapter(model, lora_dropout=0.0).train()
        check_trainable(model)
        model(input_ids=ids, labels=ids).loss.backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.requires_grad})
    for name, gradient in gradients[0].items():
        assert torch.equal(gradient, gradients[1][name]), name


def test_a_4_bit_model_that_lost_its_gradient_elsewhere_is_refused(small_model_dir: Path) -> None:
    model = nf4_by_transformers(small_model_dir)
    layer = model.model.layers[1].mlp.up_proj
    layer.weight.quant_state.packing_format_for_cpu = True  # what a pass in eval mode does there
    with pytest.raises(ValueError, match=r"layers\.1\.mlp\.up_proj: bitsandbytes has repacked"):
        training_arguments(
            add_adapter(model), optim=None, per_device_train_batch_size=1, output_dir="unused"
        )
