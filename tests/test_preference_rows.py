"""How pairs share rows, batches and precision: nothing of it changes the loss or the gradients."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from model_files import base
from pair_training import PAIRS, assert_same_gradients, first_loss, gradients, moved, trainer
from preference_oracles import cdpo, read
from test_minimal import script
from torch import Tensor
from transformers import AutoTokenizer, TrainerCallback

from mathsft.models.adapters import add_adapter
from mathsft.models.forest import TokenForest
from mathsft.models.loading import load_model
from mathsft.objectives import objective_classes
from mathsft.objectives.base import sequences_of
from mathsft.objectives.kto import KTO
from mathsft.objectives.pairwise import Pairwise
from mathsft.objectives.preference import CPO, DPO, ORPO, SimPO

ALL = {name: kind for name, kind in objective_classes().items() if issubclass(kind, Pairwise)}
# Three pairs of one prompt, two of which share their chosen answer; then pairs of other prompts.
TREES = [
    *({**PAIRS[0], "rejected": f"He has {n} left, I think."} for n in (2, 7)),
    *PAIRS[1:4],
    {**PAIRS[0], "chosen": "One is left.", "rejected": "He has 7 left, I think."},
    {**PAIRS[2], "rejected": "None are left."},
]


@pytest.fixture(scope="module")
def tokenizer(small_model_dir: Path) -> Any:
    return AutoTokenizer.from_pretrained(small_model_dir)


@pytest.fixture(scope="module")
def adapted(small_model_dir: Path) -> Any:
    """An adapter whose effect is not zero; no test changes its weights."""
    torch.manual_seed(1)
    return moved(add_adapter(base(small_model_dir), r=4, lora_dropout=0.0))


class _Gradients(TrainerCallback):
    """Keeps the gradients of each optimiser step."""

    def __init__(self) -> None:
        self.steps: list[dict[str, Tensor]] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        named = kwargs["model"].named_parameters()
        self.steps.append({n: p.grad.clone() for n, p in named if p.grad is not None})


def one_step(
    model: Any, tokenizer: Any, folder: Path, objective: Any, **arguments: Any
) -> tuple[float, dict[str, Tensor]]:
    """Train one optimiser step at a rate of 0: its logged loss, and its gradients."""
    kept = _Gradients()
    made = trainer(
        model, tokenizer, folder, objective, callbacks=[kept], learning_rate=0.0, logging_steps=1,
        max_grad_norm=0.0, weight_decay=0.0, **arguments,
    )  # fmt: skip
    made.train()
    (found,) = kept.steps
    return made.state.log_history[0]["loss"], found


def test_all_pair_losses_are_known() -> None:
    assert {"dpo", "cpo", "simpo", "orpo", "smpo"} <= ALL.keys()


@pytest.mark.parametrize("name", sorted(ALL))
def test_pairs_of_one_prompt_as_one_tree_are_those_pairs_in_separate_rows(
    adapted: Any, tokenizer: Any, tmp_path: Path, name: str
) -> None:
    objective = ALL[name](beta=0.2)
    kwargs: dict[str, Any] = {"rows": TREES}
    if objective.needs_reference:
        kwargs["reference"] = "adapter_off"
    together = trainer(adapted, tokenizer, tmp_path, objective, **kwargs)
    alone = trainer(
        adapted, tokenizer, tmp_path, replace(objective, group_by_prompt=False), **kwargs
    )
    assert (len(together.train_dataset), len(alone.train_dataset)) == (4, len(TREES))
    passed = [
        int(made.collate(list(made.train_dataset))["row_tokens"].sum())
        for made in (together, alone)
    ]
    assert passed[0] < passed[1]
    found, expected = first_loss(together), first_loss(alone)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    wanted = gradients(expected, adapted)
    assert_same_gradients(gradients(found, adapted), wanted)


@pytest.mark.slow
@settings(
    max_examples=6, deadline=None, derandomize=True, phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip
@given(
    objective=st.sampled_from(
        [DPO(), DPO(loss_type="ipo", sft_weight=0.5), ORPO(), CPO(), SimPO()]
    ),
    grouped=st.booleans(),
    prompts=st.lists(st.integers(0, 3), min_size=8, max_size=8),
    lengths=st.lists(st.integers(1, 6), min_size=8, max_size=8),
)
def test_a_step_does_not_depend_on_how_its_pairs_are_accumulated(
    adapted: Any, tokenizer: Any, tmp_path: Path, objective: Any, grouped: bool,
    prompts: list[int], lengths: list[int],
) -> None:  # fmt: skip
    rows = [
        {
            "prompt": PAIRS[prompt]["prompt"],
            "chosen": f"He has {place} left." + " Yes." * length,
            "rejected": f"No, {place + 10} are left.",
        }
        for place, (prompt, length) in enumerate(zip(prompts, lengths, strict=True))
    ]
    objective = replace(objective, group_by_prompt=grouped)
    how: dict[str, Any] = {"reference": "adapter_off"} if objective.needs_reference else {}
    steps = []
    for size in (8, 4, 2):
        how |= {"per_device_train_batch_size": size, "gradient_accumulation_steps": 8 // size}
        steps.append(
            one_step(adapted, tokenizer, tmp_path, objective, rows=rows, max_length=400, **how)
        )
    for loss, found in steps[1:]:
        assert loss == pytest.approx(steps[0][0], rel=1e-5)
        assert_same_gradients(found, steps[0][1])


def test_pairs_that_another_row_has_swapped_are_dropped_and_counted(
    adapted: Any, tokenizer: Any, tmp_path: Path, capsys: Any
) -> None:
    first = PAIRS[0]
    swapped = {**first, "chosen": f"  {first['rejected'].upper()}", "rejected": first["chosen"]}
    elsewhere = {**PAIRS[1], "chosen": first["rejected"], "rejected": first["chosen"]}
    made = trainer(adapted, tokenizer, tmp_path, CPO(), rows=[first, PAIRS[1], swapped, elsewhere])
    assert len(made.train_dataset) == 1  # the two pairs of the second prompt
    assert [len(row["input_ids"]) for row in made.train_dataset] == [4]
    told = "dropped: 2 whose chosen and rejected answers another row has swapped"
    assert told in capsys.readouterr().out
    with pytest.raises(ValueError, match="no row is left; dropped: 2 whose chosen and rejected"):
        trainer(adapted, tokenizer, tmp_path, CPO(), rows=[first, swapped])


def test_answers_that_are_labelled_good_and_bad_are_dropped_and_counted_by_kto(
    adapted: Any, tokenizer: Any, tmp_path: Path, capsys: Any
) -> None:
    prompt, answers = PAIRS[0]["prompt"], ("He has 5 left.", "No.", "He has 7.")
    good, bad, other = ({"prompt": prompt, "completion": text} for text in answers)
    rows = [
        {**good, "label": True},
        {**good, "completion": f" {answers[0].upper()}", "label": False},
        {**bad, "label": False},
        {**bad, "label": False},  # twice the same is no contradiction
        {**other, "label": True},
        {**good, "prompt": PAIRS[2]["prompt"], "label": False},  # of another prompt
    ]
    made = trainer(adapted, tokenizer, tmp_path, KTO(), rows=rows)
    assert [row["desirable"] for row in made.train_dataset] == [[False], [False], [True], [False]]
    told = "dropped: 2 whose answer is labelled good in one row and bad in another"
    assert told in capsys.readouterr().out
    pair = PAIRS[0]
    swapped = {**pair, "chosen": pair["rejected"], "rejected": pair["chosen"]}
    with pytest.raises(ValueError, match="no row is left; dropped: 2 whose answer is labelled"):
        trainer(adapted, tokenizer, tmp_path, KTO(), rows=[pair, swapped])


@pytest.mark.parametrize("max_length", [45, 60, 1000])
def test_pairs_of_one_prompt_that_do_not_fit_into_one_row_fill_several(
    adapted: Any, tokenizer: Any, tmp_path: Path, capsys: Any, max_length: int
) -> None:
    pairs = [
        {**PAIRS[n % 2], "chosen": f"He has {n} left.", "rejected": f"He has {n + 50} apples."}
        for n in range(14)
    ]
    alone = trainer(adapted, tokenizer, tmp_path, CPO(group_by_prompt=False), rows=pairs)
    made = trainer(adapted, tokenizer, tmp_path, CPO(), rows=pairs, max_length=max_length)

    def pairs_of(row: Any) -> list[str]:
        answers = [str(one["input_ids"]) for one in sequences_of(row)]
        return [" > ".join(answers[place : place + 2]) for place in range(0, len(answers), 2)]

    rows = list(made.train_dataset)
    assert len(rows) == 2 if max_length == 1000 else 2 < len(rows) < len(pairs)
    assert all(TokenForest(list(sequences_of(row))).tokens <= max_length for row in rows)
    found, expected = (
        Counter(pair for row in part for pair in pairs_of(row))
        for part in (rows, alone.train_dataset)
    )
    assert found == expected
    assert found.total() == len(pairs)
    assert f"pairs of one prompt together in {len(rows)} rows" in capsys.readouterr().out
    assert len(made.collate(rows)["labels"]) == len(pairs)
    assert first_loss(made).item() == pytest.approx(first_loss(alone).item(), rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("objective", [DPO(beta=0.1), CPO(cpo_alpha=0.5)], ids=str)
def test_in_4_bits_with_checkpointing_and_accumulation_the_step_is_the_plain_one(
    tmp_path: Path, objective: Any
) -> None:
    model, tokenizer = load_model(
        "tiny", quantize=True, lora={"r": 4, "lora_dropout": 0.0}, device="cpu"
    )
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05, generator=generator)
    if isinstance(objective, DPO):
        expected, _ = script("dpo").batch_loss(model, tokenizer, PAIRS)
    else:
        pairs = [
            [
                read(model, None, tokenizer, row["prompt"], row[side])
                for side in ("chosen", "rejected")
            ]
            for row in PAIRS
        ]
        expected = torch.stack(
            [cdpo(c, j, beta=0.1, noise=0.0) - 0.5 * c.tokens.mean() for c, j in pairs]
        ).mean()
    wanted = gradients(expected, model)
    how = {"reference": "adapter_off"} if objective.needs_reference else {}
    loss, found = one_step(
        model, tokenizer, tmp_path, objective, gradient_checkpointing=True,
        per_device_train_batch_size=2, gradient_accumulation_steps=4, **how,
    )  # fmt: skip
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    assert_same_gradients(found, wanted)
