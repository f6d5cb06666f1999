"""A model loads completely, or the error says what is wrong and what to do."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from model_files import Change, hub_cache, rewrite
from safetensors.torch import load_file

from mathsft.models.adapter_checks import has_adapter
from mathsft.models.adapter_files import base_identity
from mathsft.models.adapters import add_adapter
from mathsft.models.loading import load_model
from mathsft.models.model_files import TINY, checked_source

WEIGHTS = "model.safetensors"


@pytest.fixture
def folder(small_model_dir: Path, tmp_path: Path) -> Path:
    """A copy of the small model that a test may damage."""
    return shutil.copytree(small_model_dir, tmp_path / "model")


def set_config(folder: Path, name: str = "config.json", **values: object) -> None:
    config = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps(config | values))


@pytest.fixture(params=[False, True], ids=["float32", "nf4"])
def quantize(request: pytest.FixtureRequest) -> bool:
    return request.param


def test_a_folder_loads_in_eval_mode_by_the_policy_of_the_cpu(small_model_dir: Path) -> None:
    model, tokenizer = load_model(small_model_dir, device="cpu")
    assert not model.training
    assert model.dtype is torch.float32
    assert model.config._attn_implementation == "sdpa"
    assert tokenizer.decode(tokenizer("12 apples")["input_ids"]) == "12 apples"


def test_tiny_is_the_packaged_folder_loaded_as_any_other() -> None:
    assert checked_source("tiny", None) == str(TINY)
    by_name, by_folder = load_model("tiny")[0], load_model(TINY)[0]
    for ours, theirs in zip(by_name.parameters(), by_folder.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_weights_are_those_of_the_file(small_model_dir: Path) -> None:
    model, _ = load_model(small_model_dir, device="cpu")
    stored = load_file(small_model_dir / "model.safetensors")
    state = model.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in stored.items())


@pytest.mark.parametrize("dtype", ["bfloat16", torch.float16])
def test_a_dtype_can_be_asked_for(small_model_dir: Path, dtype: torch.dtype | str) -> None:
    model, _ = load_model(small_model_dir, dtype=dtype, device="cpu")
    assert model.dtype in (torch.bfloat16, torch.float16)
    assert str(model.dtype).endswith(str(dtype).removeprefix("torch."))


@pytest.mark.parametrize("key", ["_attn_implementation", "attn_implementation"])
@pytest.mark.parametrize("wanted", [None, "sdpa", "eager"])
def test_the_argument_beats_an_attention_implementation_in_config_json(
    folder: Path, key: str, wanted: str | None
) -> None:
    set_config(folder, **{key: "sdpa" if wanted == "eager" else "eager"})
    model, _ = load_model(folder, attn_implementation=wanted)
    assert model.config._attn_implementation == (wanted or "sdpa")
    attention = model.model.layers[0].self_attn
    assert attention.config._attn_implementation == (wanted or "sdpa")


@pytest.mark.parametrize("key", ["dtype", "torch_dtype"])
def test_the_argument_beats_a_dtype_in_config_json(folder: Path, key: str) -> None:
    set_config(folder, **{key: "float16"})
    assert load_model(folder)[0].dtype == torch.float32
    assert load_model(folder, dtype="bfloat16")[0].dtype == torch.bfloat16


def test_nf4_packs_the_projections_and_nothing_else(small_model_dir: Path) -> None:
    from bitsandbytes.nn import Linear4bit

    model, _ = load_model(small_model_dir, quantize=True, dtype="bfloat16", device="cpu")
    packed = [m for m in model.modules() if isinstance(m, Linear4bit)]
    assert len(packed) == 7 * model.config.num_hidden_layers
    assert all(m.weight.quant_state.quant_type == "nf4" for m in packed)
    assert all(m.weight.quant_state.nested for m in packed)  # double quantisation
    assert all(m.compute_dtype is torch.bfloat16 for m in packed)
    # Not upcast, as prepare_model_for_kbit_training would.
    assert model.get_input_embeddings().weight.dtype is torch.bfloat16
    assert not isinstance(model.lm_head, Linear4bit)


def test_a_tied_head_stored_twice_is_no_false_alarm(folder: Path, quantize: bool) -> None:
    rewrite(
        folder / WEIGHTS,
        lambda w: w.update({"lm_head.weight": w["model.embed_tokens.weight"].clone()}),
    )
    model, _ = load_model(folder, quantize=quantize, device="cpu")
    assert model.lm_head.weight is model.get_input_embeddings().weight


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda w: w.pop("model.norm.weight"), r"1 missing keys \(model\.norm\.weight\)"),
        (lambda w: w.pop("model.layers.1.mlp.up_proj.weight"), r"missing.*up_proj"),
        (lambda w: w.update(extra=torch.zeros(2)), r"1 unexpected keys \(extra\)"),
        (lambda w: w.update({"model.norm.weight": torch.ones(3)}), "other shapes"),
        (
            lambda w: w.update({"model.layers.0.mlp.up_proj.weight": torch.ones(64, 64)}),
            "other shapes",
        ),
        (
            lambda w: [w.__setitem__(f"base_model.model.{k}", w.pop(k)) for k in list(w)],
            r"missing keys.*unexpected keys \(base_model\.model",
        ),
    ],
    ids=[
        "norm missing",
        "projection missing",
        "extra",
        "shape",
        "projection shape",
        "keys of a PeftModel",
    ],
)
def test_weights_that_do_not_fit_raise(
    folder: Path, quantize: bool, change: Change, found: str
) -> None:
    rewrite(folder / WEIGHTS, change)
    with pytest.raises(ValueError, match=found):
        load_model(folder, quantize=quantize, device="cpu")


@pytest.mark.parametrize("keep", [0.0, 0.5, 0.999])
def test_a_file_cut_short_raises(folder: Path, keep: float) -> None:
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole))])
    with pytest.raises(ValueError, match=r"model\.safetensors.*cut short"):
        load_model(folder)


def test_a_folder_without_config_raises(folder: Path) -> None:
    (folder / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"no config\.json.*model\.safetensors"):
        load_model(folder)


def test_a_folder_without_weights_raises(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="no weights"):
        load_model(folder)


def test_a_folder_with_pickled_weights_alone_raises(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"only pytorch_model\.bin.*safetensors"):
        load_model(folder)


def test_a_folder_without_tokenizer_raises(folder: Path) -> None:
    for path in folder.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(ValueError, match=r"tokenizer\.json"):
        load_model(folder)


def test_an_adapter_folder_names_its_base_and_load_adapter(folder: Path, tmp_path: Path) -> None:
    model, _ = load_model(folder, lora=True, device="cpu")
    model.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    with pytest.raises(ValueError, match=r"holds an adapter.*load_model.*model.*load_adapter"):
        load_model(tmp_path / "adapter")


def test_full_weights_beside_an_adapter_are_refused(folder: Path) -> None:
    model, _ = load_model(folder, lora=True, device="cpu")
    model.save_pretrained(folder, save_embedding_layers=False)
    with pytest.raises(ValueError, match="a full model and an adapter"):
        load_model(folder)


def test_a_folder_that_is_not_there_raises(tmp_path: Path) -> None:
    for name in (tmp_path / "nowhere", str(tmp_path / "nowhere"), "./nowhere"):
        with pytest.raises(FileNotFoundError, match="no folder"):
            load_model(name)


def test_a_hub_name_offline_says_what_to_do() -> None:
    with pytest.raises(OSError, match=r"nobody/nothing(.|\n)*HF_HUB_OFFLINE(.|\n)*tiny"):
        load_model("nobody/nothing")


def test_a_hub_name_in_the_cache_loads_offline(
    small_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quantize: bool
) -> None:
    hub_cache(monkeypatch, tmp_path, "someone/small", small_model_dir)
    model, _ = load_model("someone/small", quantize=quantize, device="cpu")
    # The values that 4-bit layers have lost are read from the cache.
    names = base_identity(model)["samples"]
    assert "model.layers.1.mlp.down_proj.weight" in names
    assert names == base_identity(load_model(small_model_dir, device="cpu")[0])["samples"]


def test_a_hub_name_of_an_adapter_names_load_adapter(
    small_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers would silently load its base and put the adapter on it."""
    model, tokenizer = load_model(small_model_dir, lora=True, device="cpu")
    model.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    tokenizer.save_pretrained(tmp_path / "adapter")
    hub_cache(monkeypatch, tmp_path, "someone/adapter", tmp_path / "adapter")
    with pytest.raises(ValueError, match=r"is an adapter.*load_adapter"):
        load_model("someone/adapter")


def test_a_revision_is_for_hub_names(small_model_dir: Path) -> None:
    with pytest.raises(ValueError, match="revision"):
        load_model(small_model_dir, revision="main")


def test_the_tokenizer_gets_a_padding_token_where_it_has_none(folder: Path) -> None:
    set_config(folder, "tokenizer_config.json", pad_token=None)
    set_config(folder, pad_token_id=None)
    model, tokenizer = load_model(folder)
    assert tokenizer.pad_token == tokenizer.eos_token
    assert model.config.pad_token_id == tokenizer.eos_token_id


def test_a_tokenizer_larger_than_the_embedding_raises(folder: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([f"<extra {n}>" for n in range(3)])
    tokenizer.save_pretrained(folder)
    with pytest.raises(ValueError, match="the tokenizer belongs to another model"):
        load_model(folder)


def test_lora_settings_override_single_values(small_model_dir: Path) -> None:
    model, _ = load_model(small_model_dir, lora={"r": 4}, device="cpu")
    config = model.peft_config["default"]
    assert (config.r, config.lora_alpha, config.lora_dropout) == (4, 32, 0.05)
    assert has_adapter(model)


def test_an_unknown_lora_setting_names_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"'alpha'.*did you mean 'lora_alpha'"):
        load_model("tiny", lora={"alpha": 8})


def test_an_unknown_dtype_names_the_nearest(small_model_dir: Path) -> None:
    with pytest.raises(ValueError, match=r"'float61'.*did you mean 'float16'"):
        load_model(small_model_dir, dtype="float61")


def lora_gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    ids = torch.arange(3, 19)[None]
    model.train()
    model.zero_grad()
    model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    return {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_real_qlora_trains_float32_adapters_and_nothing_else(
    small_model_dir: Path, dtype: str
) -> None:
    model, _ = load_model(small_model_dir, quantize=True, lora=True, dtype=dtype, device="cpu")
    gradients = lora_gradients(model)
    layers = model.config.num_hidden_layers
    assert len(gradients) == 2 * 7 * layers  # A and B of seven projections
    assert all("lora_" in name for name in gradients)
    assert {g.dtype for g in gradients.values()} == {torch.float32}
    assert all(g.any() for name, g in gradients.items() if "lora_B" in name)
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("use_reentrant", [False, True])
def test_gradient_checkpointing_gives_the_same_gradients(
    small_model_dir: Path, quantize: bool, use_reentrant: bool
) -> None:
    model, _ = load_model(small_model_dir, quantize=quantize, device="cpu")
    model = add_adapter(model, lora_dropout=0.0)
    plain = {name: gradient.clone() for name, gradient in lora_gradients(model).items()}
    model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
    saved = lora_gradients(model)
    assert saved.keys() == plain.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(saved[name], gradient)
