"""Training on pairs, and the reference that the model is compared with."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from model_files import base
from pair_training import (
    PAIRS,
    assert_same_gradients,
    first_loss,
    gradients,
    moved,
    plain_dpo,
    trainer,
)
from torch import Tensor, nn
from transformers import (
    AutoTokenizer,
    TrainerCallback,
)

from mathsft.models.adapters import add_adapter
from mathsft.models.logprobs import Scores
from mathsft.objectives.preference import DPO, Pairwise
from mathsft.objectives.sft import SFT
from mathsft.training.runs import start_hash


@pytest.fixture(scope="module")
def tokenizer(small_model_dir: Path) -> Any:
    return AutoTokenizer.from_pretrained(small_model_dir)


@pytest.fixture
def adapted(small_model_dir: Path) -> Any:
    torch.manual_seed(1)
    return add_adapter(base(small_model_dir), r=4, lora_dropout=0.0)


@pytest.mark.parametrize("reference", ["adapter_off", "before_training"])
def test_dpo_is_the_papers_loss_over_plain_passes(
    small_model_dir: Path, adapted: Any, tokenizer: Any, tmp_path: Path, reference: Any
) -> None:
    made = trainer(adapted, tokenizer, tmp_path, DPO(beta=0.3), reference=reference)
    moved(adapted)
    loss = first_loss(made)
    ours = gradients(loss, adapted)
    expected = plain_dpo(adapted, base(small_model_dir), tokenizer, PAIRS, 0.3)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert_same_gradients(ours, gradients(expected, adapted))


def test_a_trained_adapter_is_its_own_reference(
    adapted: Any, tokenizer: Any, tmp_path: Path
) -> None:
    made = trainer(moved(adapted), tokenizer, tmp_path, DPO(), eval_rows=PAIRS)
    assert made.reference == "before_training"
    assert first_loss(made).item() == pytest.approx(0.693147, abs=1e-5)  # it has not changed yet
    assert made.evaluate()["eval_loss"] == pytest.approx(0.693147, abs=1e-5)


def test_a_model_without_an_adapter_is_compared_with_its_start(
    small_model_dir: Path, tokenizer: Any, tmp_path: Path
) -> None:
    model = base(small_model_dir)
    made = trainer(model, tokenizer, tmp_path, DPO(), eval_rows=PAIRS[:5], learning_rate=1e-3)
    start = base(small_model_dir)
    made.train()
    model.eval()
    expected = plain_dpo(model, start, tokenizer, PAIRS[:5], 0.1)
    found = made.evaluate()
    assert found["eval_loss"] == pytest.approx(expected.item(), rel=1e-5)
    assert found["eval_loss"] < 0.6
    assert found["eval_rewards/accuracies"] == 1.0


def test_a_stopped_run_of_dpo_ends_as_one_that_was_not_stopped(
    small_model_dir: Path, tokenizer: Any, tmp_path: Path
) -> None:
    def made(folder: Path) -> Any:
        torch.manual_seed(1)
        model = add_adapter(base(small_model_dir), r=4, lora_dropout=0.1)
        settings = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}
        return trainer(model, tokenizer, folder, DPO(), learning_rate=1e-2, **settings)

    whole = made(tmp_path / "whole")
    whole.train()
    (tmp_path / "whole/checkpoint-4").rename(tmp_path / "end")
    resumed = made(tmp_path / "whole")
    resumed.train(resume_from_checkpoint=True)
    weights = [dict(one.model.named_parameters()) for one in (whole, resumed)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert resumed.state.global_step == 4


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"chosen": " 2", "rejected": " 2"}, "whose chosen and rejected answers are equal"),
        ({"rejected": " 2" * 300}, "longer than 200 tokens"),
    ],
)
def test_pairs_that_teach_nothing_are_dropped_and_counted(
    adapted: Any, tokenizer: Any, tmp_path: Path, capsys: Any, row: Any, reason: str
) -> None:
    made = trainer(adapted, tokenizer, tmp_path, DPO(), rows=[*PAIRS, {**PAIRS[0], **row}])
    assert len(made.train_dataset) == len(PAIRS)
    assert f"dropped: 1 {reason}" in capsys.readouterr().out


def test_a_pair_without_one_of_its_parts_is_named(
    adapted: Any, tokenizer: Any, tmp_path: Path
) -> None:
    bad = {key: value for key, value in PAIRS[0].items() if key != "rejected"}
    with pytest.raises(
        ValueError, match=r"row 7: .*'prompt'; .* preference \(with chosen and rejected\)"
    ):
        trainer(adapted, tokenizer, tmp_path, DPO(), rows=[*PAIRS, bad])
    with pytest.raises(ValueError, match="beta"):
        DPO(beta=0.0)


def test_an_impossible_reference_is_refused(
    small_model_dir: Path, adapted: Any, tokenizer: Any, tmp_path: Path
) -> None:
    full = base(small_model_dir)
    with pytest.raises(ValueError, match="no adapter to switch off"):
        trainer(full, tokenizer, tmp_path, DPO(), reference="adapter_off")
    with pytest.raises(ValueError, match="adapter_off or before_training"):
        trainer(adapted, tokenizer, tmp_path, DPO(), reference="copy")
    sums = [{"prompt": "2 + 3 =", "completion": " 5"}]
    with pytest.raises(ValueError, match="uses no reference"):
        trainer(adapted, tokenizer, tmp_path, SFT(), rows=sums, reference="adapter_off")
    made = trainer(adapted, tokenizer, tmp_path, DPO(), reference="before_training")
    other = trainer(adapted, tokenizer, tmp_path, DPO())
    with pytest.raises(ValueError, match="give them as eval_rows"):
        made.evaluate(other.train_dataset)


def test_weights_of_the_base_that_are_trained_move_with_the_adapter_off(
    small_model_dir: Path, tokenizer: Any, tmp_path: Path
) -> None:
    biased = add_adapter(base(small_model_dir), r=4, bias="all")
    with pytest.raises(ValueError, match="weights of the base are trained as well"):
        trainer(biased, tokenizer, tmp_path, DPO(), reference="adapter_off")
    assert trainer(biased, tokenizer, tmp_path, DPO()).reference == "before_training"


@pytest.mark.slow
def test_an_interrupted_cell_resumes_with_the_same_reference(
    small_model_dir: Path, tokenizer: Any, tmp_path: Path, capsys: Any
) -> None:
    def adapted_anew() -> Any:
        return add_adapter(base(small_model_dir), r=4)

    how = {"max_steps": 4, "save_strategy": "steps", "save_steps": 1, "learning_rate": 1e-2}
    whole = trainer(adapted_anew(), tokenizer, tmp_path / "whole", DPO(), **how)
    whole.train()
    model = adapted_anew()
    stopped = trainer(model, tokenizer, tmp_path / "run", DPO(), **how, callbacks=[_Interrupt()])
    with pytest.raises(KeyboardInterrupt):
        stopped.train()
    again = trainer(model, tokenizer, tmp_path / "run", DPO(), **how)
    assert again.reference == "adapter_off"
    again.train(resume_from_checkpoint=True)
    assert "training resumes after step 2" in capsys.readouterr().out
    assert start_hash(model) == start_hash(whole.model)
    elsewhere = trainer(model, tokenizer, tmp_path / "other", DPO(), **how)
    assert elsewhere.reference == "before_training"  # another run, of a trained adapter


class _Interrupt(TrainerCallback):
    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == 2:
            raise KeyboardInterrupt


def test_dropout_is_off_while_pairs_are_trained(
    small_model_dir: Path, tokenizer: Any, tmp_path: Path
) -> None:
    found = []
    for rate in (0.0, 0.3):
        torch.manual_seed(0)
        model = add_adapter(base(small_model_dir), r=4, lora_dropout=rate)
        made = trainer(model, tokenizer, tmp_path, DPO(), max_steps=3, learning_rate=1e-2)
        made.train()
        found.append(start_hash(model))
        rates = {module.p for module in model.modules() if isinstance(module, nn.Dropout)}
        assert rates <= {rate}
    assert found[0] == found[1]


def test_a_loss_over_pairs_may_have_no_reference(
    adapted: Any, tokenizer: Any, tmp_path: Path
) -> None:
    @dataclass(frozen=True)
    class Free(Pairwise):
        name = "free of a reference"
        needs_reference = False

        def pair_loss(self, chosen: Scores, rejected: Scores) -> Tensor:
            return rejected.mean - chosen.mean

    made = trainer(adapted, tokenizer, tmp_path, Free(beta=2.0), eval_rows=PAIRS)
    found = made.evaluate()
    assert found["eval_rewards/chosen"] == pytest.approx(2 * found["eval_logps/chosen"], rel=1e-4)


def test_a_run_is_not_resumed_if_its_reference_weights_have_changed(
    small_model_dir: Path, tokenizer: Any, tmp_path: Path, capsys: Any
) -> None:
    model = base(small_model_dir)
    how = {"max_steps": 2, "save_strategy": "steps", "save_steps": 1, "learning_rate": 1e-3}
    trainer(model, tokenizer, tmp_path, DPO(), **how).train()
    again = trainer(model, tokenizer, tmp_path, DPO(), **how)  # a cell that is run again
    again.train(resume_from_checkpoint=True)
    printed = capsys.readouterr().out
    assert "other weights as the reference (the model's weights have changed since)" in printed
    assert "training starts again from step 0" in printed
