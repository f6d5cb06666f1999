"""``freeze``: exactly the weights that the patterns name, counted, never all and never none."""

from pathlib import Path
from typing import Any

import pytest
import torch
from small_training import PROBLEMS

from mathsft.models.loading import load_model
from mathsft.models.trained_weights import freeze
from mathsft.training.make import multiple_choice_trainer


def small(folder: Path, **arguments: Any) -> Any:
    return load_model(folder, device="cpu", **arguments)[0]


def trained(model: Any) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_what_matches_is_frozen_but_what_is_excepted_and_the_line_counts(
    small_model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = small(small_model_dir)
    every = trained(model)
    freeze(model, ["model.layers.*", "*embed*"], but=["*.layers.1.mlp.*", "*norm.weight"])
    wanted = {n for n in every if ".layers.1.mlp." in n or n.endswith("norm.weight")}
    assert trained(model) == wanted
    left = sum(model.get_parameter(name).numel() for name in wanted)
    total = sum(parameter.numel() for parameter in model.parameters())
    said = capsys.readouterr().out
    assert said.startswith(f"freeze: {left:,} of {total:,} parameters are trained")
    freeze(model, "*.layers.*")
    assert trained(model) == {"model.norm.weight"}  # frozen weights stay frozen


def test_a_tied_weight_is_matched_by_both_of_its_names(
    small_model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for patterns, but, frozen in (
        (["lm_head*"], [], True),
        (["*embed_tokens*"], [], True),
        (["*"], ["lm_head.weight"], False),
        (["*norm*"], [], False),
    ):
        model = small(small_model_dir)
        freeze(model, patterns, but=but)
        assert model.get_input_embeddings().weight.requires_grad is not frozen
        told = f"are one weight (tied), which is {'frozen' if frozen else 'trained'}\n"
        assert told in capsys.readouterr().out


@pytest.mark.parametrize(
    ("patterns", "but", "message"),
    [
        (["model.norm.weigth"], [], "did you mean 'model.norm.weight'"),
        (["*"], ["lm_haed.weight"], "did you mean 'lm_head.weight'"),
        (["layers.0"], [], "A pattern must match a whole name, such as 'model.embed_tokens"),
        (["*"], [], r"nothing would be left to train after \['\*'\]"),
        (["*"], ["*"], None),
    ],
)
def test_a_pattern_for_nothing_and_nothing_left_are_errors_and_change_nothing(
    small_model_dir: Path, patterns: list[str], but: list[str], message: str | None
) -> None:
    model = small(small_model_dir)
    before = trained(model)
    if message is None:
        freeze(model, patterns, but=but)
    else:
        with pytest.raises(ValueError, match=message):
            freeze(model, patterns, but=but)
    assert trained(model) == before


def test_parts_of_an_adapter_are_frozen_and_four_bit_weights_counted_in_full(
    small_model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for quantize in (False, True):
        model = small(small_model_dir, lora={"r": 4}, quantize=quantize)
        freeze(model, "*.lora_A.*")
        assert trained(model)
        assert all(".lora_B." in name for name in trained(model))
    first, second = capsys.readouterr().out.splitlines()
    assert first == second


def test_training_moves_what_is_not_frozen_and_nothing_else(
    small_model_dir: Path, tmp_path: Path
) -> None:
    model, tokenizer = load_model(small_model_dir, device="cpu")
    freeze(model, "*", but="*.layers.1.mlp.*")
    moved = trained(model)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    multiple_choice_trainer(
        model, tokenizer, PROBLEMS, output_dir=tmp_path, max_steps=2, learning_rate=1e-3,
        per_device_train_batch_size=4, disable_tqdm=True, warmup_steps=0,
    ).train()  # fmt: skip
    changed = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert changed == moved
