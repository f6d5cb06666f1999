"""An incomplete adapter, or one without effect, is never accepted."""

import shutil
from pathlib import Path

import pytest
import torch
from model_files import Change, base, hub_cache, logits, rewrite, trained
from peft import LoraConfig, get_peft_model

from mathsft.models.adapter_checks import has_adapter
from mathsft.models.adapters import (
    add_adapter,
    load_adapter,
    merge_adapter,
    save_adapter,
)
from mathsft.models.loading import load_model
from mathsft.models.saving import save_model

WEIGHTS = "adapter_model.safetensors"
KEY = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"


# Adding


def test_a_new_adapter_changes_nothing_and_is_the_same_every_time(small_model_dir: Path) -> None:
    model = base(small_model_dir)
    before = logits(model)
    state = torch.get_rng_state()
    one = add_adapter(model)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(logits(one), before)
    two = add_adapter(base(small_model_dir))
    for ours, theirs in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_second_adapter_is_refused(small_model_dir: Path, adapter: Path) -> None:
    wrapped = add_adapter(base(small_model_dir))
    injected = wrapped.get_base_model()  # not a PeftModel, but it has adapter layers
    for model in (wrapped, injected):
        assert has_adapter(model)
        with pytest.raises(ValueError, match="has an adapter already"):
            add_adapter(model)
        with pytest.raises(ValueError, match="has an adapter already"):
            load_adapter(model, adapter)


def test_a_module_that_is_not_there_raises(small_model_dir: Path) -> None:
    with pytest.raises(ValueError, match="no module named c_attn"):
        add_adapter(base(small_model_dir), target_modules=("q_proj", "c_attn"))


# Saving and loading


@pytest.mark.parametrize("options", [{}, {"quantize": True}, {"dtype": "bfloat16"}], ids=str)
def test_saved_and_loaded_gives_equal_logits(
    small_model_dir: Path, tmp_path: Path, options: dict[str, object]
) -> None:
    model = trained(base(small_model_dir, **options))
    save_adapter(model, tmp_path / "adapter")
    loaded = load_adapter(base(small_model_dir, **options), tmp_path / "adapter")
    assert torch.equal(logits(loaded), logits(model))
    assert {p.dtype for n, p in loaded.named_parameters() if "lora_" in n} == {torch.float32}
    assert not any(p.requires_grad for p in loaded.parameters())


def test_a_loaded_adapter_can_be_trained_on(small_model_dir: Path, adapter: Path) -> None:
    model = load_adapter(base(small_model_dir), adapter, is_trainable=True)
    trainable = [name for name, p in model.named_parameters() if p.requires_grad]
    assert len(trainable) == 2 * 7 * 2
    assert all("lora_" in name for name in trainable)


def test_an_adapter_trained_on_4_bit_loads_on_the_same_base_in_full(
    small_model_dir: Path, tmp_path: Path
) -> None:
    save_adapter(trained(base(small_model_dir, quantize=True)), tmp_path / "adapter")
    for options in ({}, {"dtype": "bfloat16"}, {"dtype": "float16"}):
        model = base(small_model_dir, **options)
        alone = logits(model)
        assert not torch.equal(logits(load_adapter(model, tmp_path / "adapter")), alone)


def test_an_adapter_of_plain_peft_loads_too(small_model_dir: Path, tmp_path: Path) -> None:
    model = trained(base(small_model_dir))
    model.save_pretrained(tmp_path / "plain", save_embedding_layers=False)
    loaded = load_adapter(base(small_model_dir), tmp_path / "plain")
    assert torch.equal(logits(loaded), logits(model))


def test_an_adapter_comes_from_the_hub_by_its_name(
    small_model_dir: Path, tmp_path: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub_cache(monkeypatch, tmp_path / "cache", "someone/adapter", adapter)
    by_name = load_adapter(base(small_model_dir), "someone/adapter")
    assert torch.equal(logits(by_name), logits(load_adapter(base(small_model_dir), adapter)))


def test_saving_and_loading_use_no_network(
    small_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        pytest.fail("a connection was attempted")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("socket.socket.connect", refuse)
    save_adapter(trained(base(small_model_dir)), tmp_path / "adapter")
    merge_adapter(load_adapter(base(small_model_dir), tmp_path / "adapter"), tmp_path / "merged")
    assert (tmp_path / "merged" / "model.safetensors").is_file()  # `refuse` was never called


# Files that are not what they should be


def test_an_adapter_wrapped_twice_is_recognised_by_its_keys(
    small_model_dir: Path, tmp_path: Path
) -> None:
    config = LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM")
    twice = get_peft_model(get_peft_model(base(small_model_dir), config), config)
    twice.save_pretrained(tmp_path / "twice", save_embedding_layers=False)
    model = base(small_model_dir)
    with pytest.raises(ValueError, match=r"wrapped twice.*get_peft_model"):
        load_adapter(model, tmp_path / "twice")
    assert not has_adapter(model)  # the base is unchanged
    with pytest.raises(ValueError, match="twice"):
        save_adapter(twice, tmp_path / "again")
    assert not (tmp_path / "again").exists()


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda w: w.pop(KEY), rf"1 missing \({KEY}\)"),
        (lambda w: w.update({KEY + "2": w[KEY].clone()}), rf"1 unexpected \({KEY}2\)"),
        (lambda w: w.update({KEY: torch.full_like(w[KEY], torch.nan)}), "not finite"),
        (lambda w: w.clear(), "holds no tensors"),
        (lambda w: [t.zero_() for k, t in w.items() if "lora_B" in k], "does nothing.*lora_B"),
    ],
    ids=["missing key", "extra key", "nan", "no tensors", "zero"],
)
def test_a_spoilt_adapter_raises(
    small_model_dir: Path,
    adapter: Path,
    change: Change,
    found: str,
) -> None:
    rewrite(adapter / WEIGHTS, change)
    with pytest.raises(ValueError, match=found):
        load_adapter(base(small_model_dir), adapter)


@pytest.mark.parametrize("keep", [0.0, 0.1, 0.999])
def test_an_adapter_file_cut_short_raises(
    small_model_dir: Path, adapter: Path, keep: float
) -> None:
    whole = (adapter / WEIGHTS).read_bytes()
    (adapter / WEIGHTS).write_bytes(whole[: int(keep * len(whole))])
    with pytest.raises(ValueError, match=rf"{WEIGHTS}.*cut short"):
        load_adapter(base(small_model_dir), adapter)


@pytest.mark.parametrize("name", ["adapter_config.json", WEIGHTS])
def test_a_file_that_is_absent_is_named(small_model_dir: Path, adapter: Path, name: str) -> None:
    (adapter / name).unlink()
    with pytest.raises(FileNotFoundError, match=name):
        load_adapter(base(small_model_dir), adapter)


def test_a_broken_config_raises(small_model_dir: Path, adapter: Path) -> None:
    (adapter / "adapter_config.json").write_text('{"peft_type": "LORA", "r"')
    with pytest.raises(ValueError, match=r"adapter_config\.json cannot be read"):
        load_adapter(base(small_model_dir), adapter)


def test_a_model_folder_and_a_mixed_folder_are_refused(
    small_model_dir: Path, adapter: Path
) -> None:
    with pytest.raises(ValueError, match=r"holds a full model.*load_model"):
        load_adapter(base(small_model_dir), small_model_dir)
    shutil.copy(small_model_dir / "model.safetensors", adapter)
    with pytest.raises(ValueError, match="a full model and an adapter"):
        load_adapter(base(small_model_dir), adapter)


def test_no_folder_and_no_hub_name_raises(small_model_dir: Path, tmp_path: Path) -> None:
    model = base(small_model_dir)
    with pytest.raises(FileNotFoundError, match="no folder"):
        load_adapter(model, tmp_path / "nowhere")
    with pytest.raises(OSError, match="nobody/nothing is neither"):
        load_adapter(model, "nobody/nothing")


# Folders in which an adapter may be written


def test_an_adapter_is_never_written_beside_a_full_model(
    small_model_dir: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(small_model_dir, tmp_path / "model")
    with pytest.raises(ValueError, match="holds a full model"):
        save_adapter(trained(base(small_model_dir)), folder)
    assert not (folder / WEIGHTS).exists()


def test_an_adapter_is_replaced_whole_and_other_files_are_kept(
    small_model_dir: Path, adapter: Path
) -> None:
    model = trained(base(small_model_dir), r=4)
    save_adapter(model, adapter)
    assert torch.equal(logits(load_adapter(base(small_model_dir), adapter)), logits(model))
    (adapter / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"other files \(notes\.txt\)"):
        save_adapter(model, adapter)
    assert (adapter / "notes.txt").read_text() == "mine"
    assert [path.name for path in adapter.parent.iterdir()] == [adapter.name]


def test_trained_weights_outside_of_the_adapter_are_not_lost_silently(
    small_model_dir: Path, tmp_path: Path
) -> None:
    model = trained(base(small_model_dir))
    model.get_base_model().model.norm.weight.requires_grad_(True)
    with pytest.raises(ValueError, match=r"1 trained weights.*norm\.weight"):
        save_adapter(model, tmp_path / "adapter")


def test_weights_that_deepspeed_holds_are_not_saved_as_empty_ones(
    small_model_dir: Path, tmp_path: Path
) -> None:
    full, tokenizer = load_model(small_model_dir, device="cpu")
    adapted = trained(base(small_model_dir))
    for model in (full, adapted):
        next(model.parameters()).ds_id = 0  # as ZeRO-3 marks a parameter
    with pytest.raises(ValueError, match=r"ZeRO-3 has the weights.*trainer\.save_model"):
        save_adapter(adapted, tmp_path / "new")
    with pytest.raises(ValueError, match=r"ZeRO-3 has the weights.*trainer\.save_model"):
        save_model(full, tokenizer, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_model_without_adapter_can_neither_be_saved_nor_merged(
    small_model_dir: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="has no adapter"):
        save_adapter(base(small_model_dir), tmp_path / "adapter")
    with pytest.raises(ValueError, match="nothing to merge"):
        merge_adapter(base(small_model_dir))
