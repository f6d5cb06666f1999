"""Reward models are saved, loaded, merged and resumed exactly, whatever their architecture."""

from pathlib import Path
from typing import Any

import pytest
import torch
from reward_training import MARGINS, METRICS, loaded_model, moved, ours_of
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

from mathsft.models.adapters import load_adapter, save_adapter
from mathsft.models.forest import TokenForest
from mathsft.models.isolation import check_isolation
from mathsft.models.loading import load_model
from mathsft.models.logprobs import last_hidden
from mathsft.models.merging import merge_adapter
from mathsft.models.reward_head import load_reward_model
from mathsft.models.saving import save_model
from mathsft.objectives.reward import read_at_end


@pytest.fixture
def loaded() -> Any:
    return loaded_model()


def test_an_adapter_with_its_head_is_saved_and_loaded_onto_a_base_with_another_head(
    loaded: Any, tmp_path: Path
) -> None:
    model, tokenizer = loaded
    expected = ours_of(loaded, tmp_path, MARGINS).evaluate()
    folder = save_adapter(model, tmp_path / "adapter", tokenizer=tokenizer)
    other, _ = load_reward_model("tiny", seed=9, device="cpu")
    again = load_adapter(other, folder, is_trainable=True)
    found = ours_of((again, tokenizer), tmp_path, MARGINS).evaluate()
    assert all(found[f"eval_{name}"] == expected[f"eval_{name}"] for name in ("loss", *METRICS))


def test_a_full_model_is_saved_and_loaded_bit_for_bit(tmp_path: Path) -> None:
    model, tokenizer = load_reward_model("tiny", seed=3, device="cpu")
    save_model(model, tokenizer, tmp_path / "model")
    again, _ = load_reward_model(tmp_path / "model", device="cpu")
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model")
    for other in (again, theirs):
        assert other.state_dict().keys() == model.state_dict().keys()
        for name, tensor in model.state_dict().items():
            assert torch.equal(tensor, other.state_dict()[name]), name
    with pytest.raises(ValueError, match="its head has 1 outputs, and 3 were asked for"):
        load_reward_model(tmp_path / "model", num_labels=3)


def test_a_reward_model_is_no_language_model(tmp_path: Path) -> None:
    save_model(*load_reward_model("tiny", device="cpu"), tmp_path / "model")
    with pytest.raises(ValueError, match="load it with load_reward_model"):
        load_model(tmp_path / "model")


CONFIGS = {
    "gpt2": {"n_embd": 64, "n_layer": 2, "n_head": 4},
    "llama": {"num_key_value_heads": 2},
    "gemma2": {"num_key_value_heads": 2, "head_dim": 16, "sliding_window": 8},
    "gpt_neox": {},
    "opt": {"ffn_dim": 96, "word_embed_proj_dim": 64},
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", CONFIGS)
def test_other_architectures_give_the_rewards_of_separate_passes(tmp_path: Path, kind: str) -> None:
    tokenizer = load_model("tiny", device="cpu")[1]
    shape = {
        "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, **CONFIGS[kind],
    }  # fmt: skip
    config = AutoConfig.for_model(
        kind, vocab_size=len(tokenizer), bos_token_id=0, eos_token_id=0, pad_token_id=0, **shape
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    model, _ = load_reward_model(tmp_path / "base", lora={"r": 2}, device="cpu")
    moved(model).eval()
    check_isolation(model)
    ids = [[*range(5, 25), n, 0] for n in (30, 40)]
    forest = TokenForest([read_at_end({"input_ids": one, "labels": one}) for one in ids])
    _, together = last_hidden(model, forest.tensors(pad_token_id=0))
    model.config.get_text_config().pad_token_id = 1
    alone = torch.cat([model(input_ids=torch.tensor([one])).logits for one in ids])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)
    save_adapter(model, tmp_path / "adapter")
    other, _ = load_reward_model(tmp_path / "base", seed=7, device="cpu")
    again = load_adapter(other, tmp_path / "adapter").eval()
    assert torch.equal(last_hidden(again, forest.tensors(pad_token_id=0))[1], together)


def test_a_new_head_is_the_same_for_a_seed_and_is_told(capsys: Any) -> None:
    torch.manual_seed(1)
    first, _ = load_reward_model("tiny", device="cpu", seed=4)
    assert "tiny: the head score is new (1 x 192, seed 4)" in capsys.readouterr().out
    torch.manual_seed(2)
    second, _ = load_reward_model("tiny", device="cpu", seed=4)
    assert torch.equal(first.score.weight, second.score.weight)


@pytest.mark.parametrize("quantize", [False, True])
def test_the_head_is_float32_and_no_layer_of_the_adapter(quantize: bool) -> None:
    model, _ = load_reward_model(
        "tiny", lora=True, quantize=quantize, dtype="bfloat16", device="cpu"
    )
    names = {name for name, p in model.named_parameters() if "score" in name and p.requires_grad}
    assert names == {"base_model.model.score.modules_to_save.default.weight"}
    assert all(p.dtype == torch.float32 for n, p in model.named_parameters() if "score" in n)
    assert model(input_ids=torch.tensor([[5, 6, 7]])).logits.shape == (1, 1)


def test_a_merged_adapter_is_a_reward_model_with_the_same_rewards(
    loaded: Any, tmp_path: Path
) -> None:
    model, tokenizer = loaded
    expected = ours_of(loaded, tmp_path).evaluate()
    merge_adapter(model, tmp_path / "model", tokenizer=tokenizer)
    again = load_reward_model(tmp_path / "model", device="cpu")
    assert ours_of(again, tmp_path).evaluate()["eval_loss"] == pytest.approx(
        expected["eval_loss"], rel=1e-5
    )


@pytest.mark.parametrize("lora", [{"r": 4}, False], ids=["adapter", "full"])
def test_training_resumes_bit_for_bit(tmp_path: Path, lora: Any) -> None:
    def trained(folder: Path, checkpoint: str | None = None) -> dict[str, Tensor]:
        loaded = load_reward_model("tiny", lora=lora, device="cpu")
        made = ours_of(
            loaded, folder, MARGINS, max_steps=4, save_strategy="steps", save_steps=2,
            per_device_train_batch_size=2, learning_rate=1e-3, save_total_limit=3,
        )  # fmt: skip
        made.train(resume_from_checkpoint=checkpoint)
        return {n: p.detach().clone() for n, p in made.model.named_parameters() if p.requires_grad}

    whole = trained(tmp_path / "run")
    again = trained(tmp_path / "run", str(tmp_path / "run" / "checkpoint-2"))
    assert whole.keys() == again.keys()
    assert all(torch.equal(whole[name], again[name]) for name in whole)
