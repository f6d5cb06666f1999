"""Losses over answers, their gradients and their clipping, against formulas over plain passes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import preference_oracles as oracles
import pytest
import torch
from model_files import base
from pair_training import PAIRS, assert_same_gradients, first_loss, gradients, moved, trainer
from preference_oracles import Answer, read
from torch import Tensor
from transformers import AutoTokenizer

from mathsft.models.adapters import add_adapter
from mathsft.models.logprobs import Scores, SequenceLogprobs
from mathsft.objectives.kto import KTO
from mathsft.objectives.preference import CPO, DPO, ORPO, SimPO
from mathsft.objectives.smpo import SMPO

Oracle = Callable[[Answer, Answer], Tensor]


@pytest.fixture(scope="module")
def tokenizer(small_model_dir: Path) -> Any:
    return AutoTokenizer.from_pretrained(small_model_dir)


@pytest.fixture
def adapted(small_model_dir: Path) -> Any:
    torch.manual_seed(1)
    return add_adapter(base(small_model_dir), r=4, lora_dropout=0.0)


def assert_equal(found: Tensor, expected: Tensor, model: Any) -> None:
    """The same loss to 1e-5, and the same gradient of each weight of the adapter."""
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    wanted = gradients(expected, model)
    assert max(float(gradient.abs().max()) for gradient in wanted.values()) > 1e-4
    assert_same_gradients(gradients(found, model), wanted)


def both(model: Any, reference: Any, tokenizer: Any) -> list[tuple[Answer, Answer]]:
    return [
        (
            read(model, reference, tokenizer, row["prompt"], row["chosen"]),
            read(model, reference, tokenizer, row["prompt"], row["rejected"]),
        )
        for row in PAIRS
    ]


LOSSES: dict[str, tuple[Any, Oracle]] = {
    "conservative DPO": (
        DPO(beta=0.3, label_smoothing=0.2),
        lambda c, j: oracles.cdpo(c, j, beta=0.3, noise=0.2),
    ),
    "robust DPO": (
        DPO(beta=0.3, loss_type="robust", label_smoothing=0.2),
        lambda c, j: oracles.robust(c, j, beta=0.3, noise=0.2),
    ),
    "IPO": (DPO(beta=0.3, loss_type="ipo"), lambda c, j: oracles.ipo(c, j, beta=0.3)),
    "hinge": (DPO(beta=0.1, loss_type="hinge"), lambda c, j: oracles.hinge(c, j, beta=0.1)),
    "DPO with likelihood": (
        DPO(beta=0.3, sft_weight=0.7),
        lambda c, j: oracles.cdpo(c, j, beta=0.3, noise=0.0) - 0.7 * c.tokens.mean(),
    ),
    "DPO, no reference": (
        DPO(beta=0.05, reference_free=True),
        lambda c, j: oracles.cdpo(c, j, beta=0.05, noise=0.0),
    ),
    "conservative DPO, no reference": (
        DPO(beta=0.05, label_smoothing=0.1, reference_free=True),
        lambda c, j: oracles.cdpo(c, j, beta=0.05, noise=0.1),
    ),
    "IPO, no reference": (
        DPO(beta=0.3, loss_type="ipo", reference_free=True),
        lambda c, j: oracles.ipo(c, j, beta=0.3),
    ),
    "CPO": (
        CPO(beta=0.05, cpo_alpha=0.5),
        lambda c, j: oracles.cdpo(c, j, beta=0.05, noise=0.0) - 0.5 * c.tokens.mean(),
    ),
    "SimPO": (
        SimPO(beta=2.5, simpo_gamma=1.0, cpo_alpha=0.3),
        lambda c, j: oracles.simpo(c, j, beta=2.5, gamma=1.0) - 0.3 * c.tokens.mean(),
    ),
    "ORPO": (ORPO(beta=1.5), lambda c, j: oracles.orpo(c, j, beta=1.5)),
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_pair_loss_is_its_formula_over_plain_passes(
    small_model_dir: Path, adapted: Any, tokenizer: Any, tmp_path: Path, name: str
) -> None:
    objective, oracle = LOSSES[name]
    made = trainer(adapted, tokenizer, tmp_path, objective)
    moved(adapted)
    reference = base(small_model_dir) if objective.needs_reference else None
    assert (made.reference is None) == (reference is None)
    pairs = both(adapted, reference, tokenizer)
    expected = torch.stack([oracle(chosen, rejected) for chosen, rejected in pairs]).mean()
    assert_equal(first_loss(made), expected, adapted)


def test_the_odds_of_a_certain_answer_have_a_finite_gradient() -> None:
    mean = torch.tensor([0.0, -1e-9, -0.3], requires_grad=True)
    worse = Scores(torch.tensor([-9.0] * 3), torch.tensor([-1.0] * 3))
    loss = ORPO().pair_loss(Scores(mean, mean), worse).sum()
    loss.backward()
    assert loss.isfinite()
    assert mean.grad is not None
    assert mean.grad.isfinite().all()


SMPO_SETTINGS: list[dict[str, Any]] = [
    {"lower_clip_percentile": None, "min_log_prob": -5.7},
    {"lower_clip_percentile": 0.33, "min_log_prob": -5.9},
    {"lower_clip_percentile": 0.33, "min_log_prob": -20.0},
    {"lower_clip_percentile": 0.02, "min_log_prob": -5.7, "upper_clip_percentile": 0.71},
]


@pytest.mark.parametrize("settings", SMPO_SETTINGS, ids=str)
@pytest.mark.parametrize(
    ("loss_type", "progress"),
    [("smooth_lower_bound", 1), ("hinge", 0.5), ("ipo", 0), ("sigmoid", 0.5)],
)
def test_smpo_is_its_formula_token_by_token(
    adapted: Any, tokenizer: Any, tmp_path: Path, loss_type: Any, progress: float, settings: Any
) -> None:
    objective = SMPO(
        loss_type=loss_type, target_margin=0.4, final_margin=2.0, chosen_sft_ratio=0.7, **settings
    )
    made = trainer(moved(adapted), tokenizer, tmp_path, objective)
    made.state.global_step, made.state.max_steps = int(10 * progress), 10
    pairs = both(adapted, None, tokenizer)
    floor = settings["min_log_prob"]
    below = [token < floor for _, rejected in pairs for token in rejected.tokens[:-1]]
    assert any(below) or floor == -20.0
    assert not all(below)
    expected = oracles.smpo(
        pairs, beta=1.2, loss_type=loss_type, sft=0.7, margin=0.4 + 1.6 * progress,
        floor=floor, lower=settings["lower_clip_percentile"],
        upper=settings.get("upper_clip_percentile"),
    )  # fmt: skip
    assert_equal(first_loss(made), expected, adapted)


def test_smpo_as_published_by_default(adapted: Any, tokenizer: Any, tmp_path: Path) -> None:
    made = trainer(moved(adapted), tokenizer, tmp_path, SMPO())
    pairs = both(adapted, None, tokenizer)
    expected = oracles.smpo(
        pairs, beta=1.2, loss_type="smooth_lower_bound", sft=0.8, margin=0.01, floor=-2.3,
        lower=0.02, upper=None,
    )  # fmt: skip
    assert_equal(first_loss(made), expected, adapted)


def test_a_clipped_token_has_no_gradient_and_the_stop_a_negated_one() -> None:
    """Two pairs of answers with four tokens each; the fourth is the stop token."""
    chosen = [-1.0, -0.1, -2.0, -0.3], [-1.5, -0.2, -0.7, -0.4]
    rejected = [-1.0, -9.0, -0.5, -3.0], [-2.5, -2.2, -1.1, -0.6]
    values = torch.tensor([*chosen[0], *rejected[0], *chosen[1], *rejected[1]], requires_grad=True)
    sequence = torch.arange(4).repeat_interleave(4)
    objective = SMPO(lower_clip_percentile=None, upper_clip_percentile=0.8)
    clipped = objective.clipped(
        SequenceLogprobs(values, sequence, torch.tensor([4] * 4)), torch.tensor([[0, 1], [2, 3]])
    )
    # The chosen tokens' quantile is at place 5.6 of 0 to 7: between -0.3 and -0.2.
    assert clipped.values.view(4, 4).tolist() == [
        pytest.approx([-1.0, -0.24, -2.0, -0.3]),
        pytest.approx([-1.0, -2.3, -0.5, 3.0]),
        pytest.approx([-1.5, -0.24, -0.7, -0.4]),
        pytest.approx([-2.3, -2.2, -1.1, 0.6]),
    ]
    clipped.values.sum().backward()
    assert values.grad is not None
    assert values.grad.view(4, 4).tolist() == [
        [1, 0, 1, 1], [1, 0, 1, -1], [1, 0, 1, 1], [0, 1, 1, -1],
    ]  # fmt: skip


@pytest.mark.parametrize("weights", [(1.0, 1.0), (1.4, 0.6)])
@pytest.mark.parametrize("scale", [1.0, -1.0])
def test_kto_compares_with_answers_to_other_prompts(
    small_model_dir: Path, adapted: Any, tokenizer: Any, tmp_path: Path, weights: Any, scale: float
) -> None:
    """Rows of one prompt are next to each other; the mismatched answers are named by hand."""
    asked = [PAIRS[place]["prompt"] for place in (0, 0, 0, 1, 1, 2)]
    rows = [
        {"prompt": prompt, "completion": f"The result is {9 * n}.", "label": n % 3 != 1}
        for n, prompt in enumerate(asked)
    ]
    others = [5, 5, 5, 2, 2, 4]
    good, bad = weights
    objective = KTO(beta=0.4, desirable_weight=good, undesirable_weight=bad)
    made = trainer(adapted, tokenizer, tmp_path, objective, rows=rows)
    moved(adapted)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.mul_(scale)
    start = base(small_model_dir)
    own = [read(adapted, start, tokenizer, row["prompt"], row["completion"]) for row in rows]
    mixed = [
        read(adapted, start, tokenizer, row["prompt"], rows[other]["completion"])
        for row, other in zip(rows, others, strict=True)
    ]
    labels = [bool(row["label"]) for row in rows]
    expected = oracles.kto(own, labels, mixed, beta=0.4, weights=weights)
    assert_equal(first_loss(made), expected, adapted)


def test_kto_reads_a_pair_as_a_good_and_a_bad_answer(
    small_model_dir: Path, adapted: Any, tokenizer: Any, tmp_path: Path
) -> None:
    made = trainer(adapted, tokenizer, tmp_path, KTO(beta=0.4))
    moved(adapted)
    start = base(small_model_dir)
    pairs = both(adapted, start, tokenizer)
    own = [answer for pair in pairs for answer in pair]
    mixed = [
        read(adapted, start, tokenizer, row["prompt"], PAIRS[place - 1][side])
        for place, row in enumerate(PAIRS)
        for side in ("chosen", "rejected")  # of the nearest pair before it with another prompt
    ]
    expected = oracles.kto(own, [True, False] * len(pairs), mixed, beta=0.4, weights=(1.0, 1.0))
    assert_equal(first_loss(made), expected, adapted)
