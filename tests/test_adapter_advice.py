"""The advice in messages about models and adapters works when it is followed exactly."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from adapter_variants import all_logits, steps
from model_files import base, trained
from peft import IA3Config, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from mathsft.models.adapter_checks import has_adapter
from mathsft.models.adapters import (
    add_adapter,
    load_adapter,
    merge_adapter,
    save_adapter,
)
from mathsft.models.loading import load_model
from mathsft.models.saving import save_model


def test_a_second_adapter_comes_after_merging_or_on_the_base_loaded_again(
    small_model_dir: Path,
) -> None:
    model = trained(base(small_model_dir))
    with pytest.raises(ValueError, match=r"Load the base again, or merge_adapter\(model\) first"):
        add_adapter(model)
    assert has_adapter(add_adapter(merge_adapter(model)))
    assert has_adapter(add_adapter(base(small_model_dir)))


def test_the_layers_that_a_model_has_are_named_and_can_be_given(small_model_dir: Path) -> None:
    with pytest.raises(
        ValueError, match=r"no module named c_attn. Its linear layers: (.*)\. G"
    ) as e:
        add_adapter(base(small_model_dir), target_modules=("c_attn",))
    names = str(e.value).partition("layers: ")[2].partition(". ")[0].split(", ")
    assert names == ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    add_adapter(base(small_model_dir), target_modules=tuple(names))


def test_a_folder_with_model_and_adapter_can_be_split_as_advised(
    small_model_dir: Path, adapter: Path, tmp_path: Path
) -> None:
    mixed = shutil.copytree(small_model_dir, tmp_path / "mixed")
    expected = all_logits(load_adapter(base(small_model_dir), adapter))
    for path in adapter.glob("*"):
        shutil.copy(path, mixed)
    for load in (lambda: base(mixed), lambda: load_adapter(base(small_model_dir), mixed)):
        with pytest.raises(ValueError, match=r"move adapter_config\.json, .* and base_"):
            load()
    (tmp_path / "own").mkdir()
    for pattern in ("adapter_config.json", "adapter_model.*", "base_identity.json"):
        for path in mixed.glob(pattern):
            shutil.move(path, tmp_path / "own")
    assert torch.equal(all_logits(load_adapter(base(mixed), tmp_path / "own")), expected)


def test_the_base_of_an_adapter_given_as_a_model_is_named(
    small_model_dir: Path, adapter: Path
) -> None:
    with pytest.raises(ValueError, match="holds an adapter") as error:
        load_model(adapter)
    first = str(error.value).partition("Load its base first (")[2].partition("),")[0]
    then = str(error.value).partition("then: ")[2]
    names: dict[str, Any] = {"load_model": load_model, "load_adapter": load_adapter}
    names["model"] = eval(first, names)[0]
    exec(then, names)
    assert torch.equal(
        all_logits(names["model"]), all_logits(load_adapter(base(small_model_dir), adapter))
    )


def test_a_model_given_as_an_adapter_is_loaded_as_the_message_says(small_model_dir: Path) -> None:
    with pytest.raises(ValueError, match=r"holds a full model") as error:
        load_adapter(base(small_model_dir), small_model_dir)
    call = str(error.value).partition("load it with ")[2]
    assert torch.equal(
        all_logits(eval(call, {"load_model": load_model})[0]), all_logits(base(small_model_dir))
    )


def test_pickles_are_saved_again_as_safetensors(
    small_model_dir: Path, adapter: Path, tmp_path: Path
) -> None:
    expected = all_logits(load_adapter(base(small_model_dir), adapter))
    weights = adapter / "adapter_model.safetensors"
    torch.save(load_file(weights), adapter / "adapter_model.bin")
    weights.unlink()
    with pytest.raises(FileNotFoundError, match=r"pickle.*PeftModel\.from_pretrained.*save_ad"):
        load_adapter(base(small_model_dir), adapter)
    model: Any = PeftModel.from_pretrained(base(small_model_dir), str(adapter))
    save_adapter(model, tmp_path / "again")
    found = all_logits(load_adapter(base(small_model_dir), tmp_path / "again"))
    assert torch.equal(found, expected)

    folder = shutil.copytree(small_model_dir, tmp_path / "model")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="save the model again with save_pretrained"):
        base(folder)
    AutoModelForCausalLM.from_pretrained(folder).save_pretrained(folder)
    assert torch.equal(all_logits(base(folder)), all_logits(base(small_model_dir)))


def test_an_adapter_of_another_kind_is_loaded_with_peft(
    small_model_dir: Path, tmp_path: Path
) -> None:
    config = IA3Config(target_modules=["k_proj"], feedforward_modules=[], task_type="CAUSAL_LM")
    model = steps(get_peft_model(base(small_model_dir), config))
    model.save_pretrained(tmp_path / "ia3", save_embedding_layers=False)
    with pytest.raises(ValueError, match=r"type IA3, and only LoRA .*PeftModel\.from_pretrained"):
        load_adapter(base(small_model_dir), tmp_path / "ia3")
    loaded = PeftModel.from_pretrained(base(small_model_dir), str(tmp_path / "ia3")).eval()
    assert torch.equal(all_logits(loaded), all_logits(model))


def test_what_save_model_refuses_can_be_saved_as_advised(
    small_model_dir: Path, tmp_path: Path
) -> None:
    _, tokenizer = load_model(small_model_dir, device="cpu")
    model = trained(base(small_model_dir)).eval()
    expected = all_logits(model)
    with pytest.raises(ValueError, match=r"merge_adapter\(model, folder, tokenizer=tokenizer\)"):
        save_model(model, tokenizer, tmp_path / "full")
    merge_adapter(model, tmp_path / "full", tokenizer=tokenizer)
    found = all_logits(base(tmp_path / "full"))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    injected = base(small_model_dir)
    injected.add_adapter(trained(base(small_model_dir)).peft_config["default"])
    with pytest.raises(ValueError, match="load the base again, and add the adapter with add_ad"):
        save_model(injected, tokenizer, tmp_path / "none")


def test_a_base_identity_without_weights_is_refused(small_model_dir: Path, adapter: Path) -> None:
    (adapter / "base_identity.json").write_text('{"name": "other", "samples": {"x": [0.0]}}')
    with pytest.raises(ValueError, match=r"names no weight .* trained on 'other'"):
        load_adapter(base(small_model_dir), adapter)
