"""An adapter that could not be loaded again is refused by both trainers and by `save_adapter`."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from adapter_variants import ATTENTION, VARIANTS, adapted, all_logits, steps
from model_files import base
from packaging.version import Version
from peft import (
    BOFTConfig,
    IA3Config,
    LoraConfig,
    PromptTuningConfig,
    VeraConfig,
    get_peft_model,
)

from mathsft.data.problems import read_problems
from mathsft.models.adapters import add_adapter, load_adapter, merge_adapter, save_adapter
from mathsft.models.loading import load_model
from mathsft.models.saving import save_model
from mathsft.training.make import multiple_choice_trainer, sft_trainer

LORA = LoraConfig(r=4, target_modules=ATTENTION, task_type="CAUSAL_LM")


def named(model: Any) -> Any:
    return get_peft_model(model, LORA, adapter_name="mine")


def two(model: Any) -> Any:
    first = get_peft_model(model, LORA)
    first.add_adapter("second", LORA)
    return first


def injected(model: Any) -> Any:
    model.add_adapter(LORA)
    return model


def twice(model: Any) -> Any:
    return get_peft_model(get_peft_model(model, LORA), copy.deepcopy(LORA))


def changed_base(model: Any) -> Any:
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight.mul_(1.1)
    return get_peft_model(model, LORA)


def with_norms(model: Any) -> Any:
    model = get_peft_model(model, LORA)
    model.get_base_model().model.norm.weight.requires_grad_(True)
    return model


def merged(model: Any) -> Any:
    model = steps(get_peft_model(model, LORA))
    model.merge_adapter()
    return model


def switched_off(model: Any) -> Any:
    model = steps(get_peft_model(model, LORA))
    model.disable_adapter_layers()
    next(p for n, p in model.named_parameters() if "lora_A" in n).requires_grad_(True)
    return model


def rescaled(model: Any) -> Any:
    model = get_peft_model(model, LORA)
    model.base_model.model.model.layers[1].self_attn.q_proj.scale_layer(0.5)
    return model


def said_to_begin(start: str) -> Callable[[Any], Any]:
    """Set the config only: LoftQ needs a GPU and CorDA needs data, but the config names them."""

    def make(model: Any) -> Any:
        model = get_peft_model(model, copy.deepcopy(LORA))
        model.peft_config["default"].init_lora_weights = start
        return model

    return make


def kind(config: Any) -> Callable[[Any], Any]:
    return lambda model: get_peft_model(model, config)


def lora(**settings: Any) -> Callable[[Any], Any]:
    return kind(LoraConfig(**{"target_modules": ATTENTION, "task_type": "CAUSAL_LM", **settings}))


REFUSED: dict[str, tuple[Callable[[Any], Any], str]] = {
    "PiSSA": (lora(init_lora_weights="pissa"), "'pissa' takes a part out of the base"),
    "fast PiSSA": (lora(init_lora_weights="pissa_niter_4"), "'pissa_niter_4' takes a part"),
    "OLoRA": (lora(init_lora_weights="olora"), "'olora' takes a part"),
    "LoftQ": (said_to_begin("loftq"), "'loftq' takes a part"),
    "CorDA": (said_to_begin("corda"), "'corda' takes a part"),
    "repeated layers": (lora(layer_replication=[(0, 2), (1, 2)]), "layer_replication"),
    "IA3": (
        kind(IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"])),
        "IA3Config, and only LoRA",
    ),
    "prompt tuning": (
        kind(PromptTuningConfig(num_virtual_tokens=4, task_type="CAUSAL_LM")),
        "PromptTuningConfig, and only LoRA",
    ),
    "VeRA": (kind(VeraConfig(target_modules=["q_proj"])), "VeraConfig, and only LoRA"),
    "BOFT": (kind(BOFTConfig(target_modules=["q_proj"], boft_block_size=4)), "only LoRA"),
    "another name": (named, r"named 'default' is expected, found \['mine'\]"),
    "two adapters": (two, r"found \['default', 'second'\]"),
    "injected": (injected, "not a peft.PeftModel"),
    "wrapped twice": (twice, "twice"),
    "another base": (changed_base, r"1 weights of the base.*up_proj.*save_model"),
    "norms unfrozen": (with_norms, r"1 trained weights.*norm\.weight.*modules_to_save"),
    "merged": (merged, "unmerge_adapter"),
    "switched off": (switched_off, "enable_adapter_layers"),
    "rescaled": (rescaled, r"q_proj is scaled by 1, .*of 2 after"),
}
if Version(peft.__version__) < Version("0.21"):
    REFUSED["biases that this peft loses"] = (lora(bias="lora_only"), "use bias='all'")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", REFUSED)
def test_it_is_refused_before_training_and_by_save_adapter(
    small_model_dir: Path, tmp_path: Path, case: str
) -> None:
    make, message = REFUSED[case]
    model, tokenizer = load_model(small_model_dir, device="cpu")
    model = make(model)
    rows = read_problems("tiny-mathqa", limit=4)[0]
    for trainer in (sft_trainer, multiple_choice_trainer):
        with pytest.raises(ValueError, match=message):
            trainer(model, tokenizer, rows, output_dir=tmp_path / "run", max_steps=1)
    with pytest.raises(ValueError, match=message):
        save_adapter(model, tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()


def test_values_that_are_not_finite_are_not_written(small_model_dir: Path, tmp_path: Path) -> None:
    model = steps(adapted(small_model_dir))
    with torch.no_grad():
        next(p for n, p in model.named_parameters() if "lora_B" in n)[0, 0] = torch.inf
    with pytest.raises(ValueError, match=r"adapter in memory: .*lora_B.* not finite"):
        save_adapter(model, tmp_path / "adapter")


# These tests follow the advice of the messages.


def test_a_changed_base_is_saved_and_then_adapted(small_model_dir: Path, tmp_path: Path) -> None:
    model, tokenizer = load_model(small_model_dir, device="cpu")
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight.mul_(1.1)
    save_model(model, tokenizer, tmp_path / "base")
    tuned = steps(add_adapter(model))
    save_adapter(tuned, tmp_path / "adapter")
    loaded = load_adapter(base(tmp_path / "base"), tmp_path / "adapter")
    assert torch.equal(all_logits(loaded), all_logits(tuned))


@pytest.mark.parametrize("case", ["PiSSA", "OLoRA", "another base", "norms unfrozen"])
def test_what_was_trained_anyway_is_saved_as_a_full_model(
    small_model_dir: Path, tmp_path: Path, case: str
) -> None:
    make, _ = REFUSED[case]
    model, tokenizer = load_model(small_model_dir, device="cpu")
    tuned = steps(make(model))
    expected = all_logits(tuned)
    with pytest.raises(ValueError, match=r"merge_adapter\(model, folder, tokenizer=tokenizer\)"):
        save_adapter(tuned, tmp_path / "adapter")
    merge_adapter(tuned, tmp_path / "full", tokenizer=tokenizer)
    found = all_logits(base(tmp_path / "full"))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_weights_beside_the_adapter_are_named_in_its_config_instead(
    small_model_dir: Path, tmp_path: Path
) -> None:
    model = steps(adapted(small_model_dir, **VARIANTS["norms saved"]))
    save_adapter(model, tmp_path / "adapter")
    loaded = load_adapter(base(small_model_dir), tmp_path / "adapter")
    assert torch.equal(all_logits(loaded), all_logits(model))


@pytest.mark.parametrize("start", ["pissa", "olora"])
def test_such_an_adapter_of_plain_peft_is_loaded_by_peft_and_merged(
    small_model_dir: Path, tmp_path: Path, start: str
) -> None:
    model = steps(adapted(small_model_dir, init_lora_weights=start))
    model.save_pretrained(tmp_path / "theirs", save_embedding_layers=False)
    with pytest.raises(ValueError, match=rf"{start}.*PeftModel\.from_pretrained.*merge_adapter"):
        load_adapter(base(small_model_dir), tmp_path / "theirs")
    plain = peft.PeftModel.from_pretrained(base(small_model_dir), str(tmp_path / "theirs"))
    merge_adapter(plain, tmp_path / "full", tokenizer=load_model(small_model_dir)[1])
    found = all_logits(base(tmp_path / "full"))
    torch.testing.assert_close(found, all_logits(model), rtol=1e-4, atol=1e-4)
