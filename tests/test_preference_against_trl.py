"""TRL's own trainers are the reference for the losses over answers: loss, metrics, gradients."""

from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from pair_training import assert_same_gradients, gradients
from torch import Tensor
from trl import DPOConfig, DPOTrainer
from trl.experimental.cpo import CPOConfig, CPOTrainer
from trl.experimental.orpo import ORPOConfig, ORPOTrainer

from mathsft.models.loading import load_model
from mathsft.objectives.kto import KTO
from mathsft.objectives.preference import CPO, DPO, ORPO, SimPO
from mathsft.training.make import make_trainer

if int(version("trl").split(".")[0]) < 1:
    from trl.experimental.kto import KTOConfig, KTOTrainer

    IN_ORDER: dict[str, Any] = {}  # this version always trains KTO's rows in order
else:
    from trl import KTOConfig, KTOTrainer

    IN_ORDER = {"train_sampling_strategy": "sequential"}

# Each prompt has one pair. The answers differ in length, within a pair and between pairs.
PAIRS = [
    {
        "prompt": f"Tom has {n} pens and eats {n - 1}.\n\n",
        "chosen": "He has 1 pen left." + " That is all." * (n % 3),
        "rejected": f"He has {n} pens left, or {n + 1}." * (1 + n % 2),
    }
    for n in range(3, 9)
]
REWARDS = {f"eval_rewards/{name}" for name in ("chosen", "rejected", "margins", "accuracies")}
LOGPS = {"eval_logps/chosen", "eval_logps/rejected"}
NLL = {"eval_nll_loss"}


@pytest.fixture
def loaded() -> Any:
    """The packaged model in float32 with an adapter, without dropout."""
    return load_model("tiny", lora={"r": 4, "lora_dropout": 0.0}, device="cpu")


def moved(model: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_B.default" in name:  # TRL keeps a copy of the adapter as "ref"
            torch.nn.init.normal_(parameter, std=0.05, generator=generator)


def ours_of(loaded: Any, objective: Any, rows: Any, folder: Path) -> Any:
    model, tokenizer = loaded
    return make_trainer(
        model, tokenizer, rows, objective, output_dir=folder, eval_rows=rows,
        per_device_train_batch_size=8,
    )  # fmt: skip


def theirs_of(
    loaded: Any, kind: Any, config: Any, rows: Any, folder: Path, *, batch: int, **options: Any
) -> Any:
    model, tokenizer = loaded
    args = config(
        str(folder), bf16=False, gradient_checkpointing=False, report_to="none", use_cpu=True,
        per_device_train_batch_size=batch, per_device_eval_batch_size=batch, **options,
    )  # fmt: skip
    data = Dataset.from_list(rows)
    return kind(model, args=args, train_dataset=data, eval_dataset=data, processing_class=tokenizer)


def step(trainer: Any) -> tuple[float, dict[str, Tensor]]:
    """Return the mean loss of the trainer's batches and its gradients."""
    trainer.model.train()
    trainer.model.zero_grad()
    loader, total = trainer.get_train_dataloader(), 0.0
    for batch in loader:
        loss = trainer.compute_loss(trainer.model, trainer._prepare_inputs(batch)) / len(loader)
        loss.backward()
        total += loss.item()
    return total, {n: p.grad for n, p in trainer.model.named_parameters() if p.requires_grad}


def assert_equal_step(ours: Any, theirs: Any) -> None:
    assert ours[0] == pytest.approx(theirs[0], rel=1e-5)
    assert max(float(gradient.abs().max()) for gradient in theirs[1].values()) > 1e-4
    assert_same_gradients(ours[1], theirs[1])


def assert_equal_metrics(
    ours: Any, theirs: Any, logged: set[str], *, other: frozenset[str] = frozenset()
) -> None:
    """All that both log; ``logged`` must be among it, ``other`` has another meaning in TRL."""
    found, expected = ours.evaluate(), theirs.evaluate()
    expected |= theirs.state.log_history[-1]  # some versions keep their metrics only here
    both = {name for name in found.keys() & expected.keys() if name.startswith("eval_")}
    both -= other | {name for name in both if name.endswith(("_time", "_runtime", "_per_second"))}
    assert logged <= both
    for name in both:
        assert found[name] == pytest.approx(expected[name], rel=1e-4, abs=1e-6), name


@pytest.mark.parametrize(
    ("objective", "options"),
    [
        (DPO(beta=0.3), {"loss_type": ["sigmoid"]}),
        (DPO(beta=0.3, loss_type="ipo"), {"loss_type": ["ipo"]}),
        (DPO(beta=0.3, loss_type="hinge"), {"loss_type": ["hinge"]}),
        (
            DPO(beta=0.3, loss_type="robust", label_smoothing=0.1),
            {"loss_type": ["robust"], "label_smoothing": 0.1},
        ),
        (
            DPO(beta=0.3, sft_weight=0.7),
            {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.7]},
        ),
    ],
    ids=["sigmoid", "ipo", "hinge", "robust", "sigmoid and sft"],
)
def test_a_loss_of_dpo_is_that_of_trls_trainer(
    loaded: Any, tmp_path: Path, objective: DPO, options: dict[str, Any]
) -> None:
    ours = ours_of(loaded, objective, PAIRS, tmp_path)
    assert ours.reference == "adapter_off"
    # TRL takes the mean of "sft" over the batch's tokens: with one pair it is that pair's.
    batch = 1 if objective.sft_weight else 8
    theirs = theirs_of(
        loaded, DPOTrainer, DPOConfig, PAIRS, tmp_path, batch=batch, beta=0.3, max_length=None,
        **options,
    )  # fmt: skip
    moved(loaded[0])
    assert_equal_step(step(ours), step(theirs))
    assert_equal_metrics(ours, theirs, {"eval_loss"} | REWARDS | LOGPS)


@pytest.mark.parametrize(
    ("objective", "options"),
    [
        (CPO(), {}),
        (CPO(beta=0.3, label_smoothing=0.1), {"label_smoothing": 0.1}),
        (CPO(beta=0.3, loss_type="hinge"), {}),
        (CPO(beta=0.3, loss_type="ipo"), {}),
        (CPO(beta=0.3, cpo_alpha=0.0), {}),
        (CPO(beta=0.3, loss_type="hinge", cpo_alpha=0.0), {}),
        (CPO(beta=0.3, loss_type="ipo", cpo_alpha=0.0), {}),
        (SimPO(), {"simpo_gamma": 0.5}),
        (SimPO(cpo_alpha=0.5), {"simpo_gamma": 0.5}),
        (DPO(reference_free=True), {"cpo_alpha": 0.0}),
        (DPO(loss_type="hinge", reference_free=True), {"cpo_alpha": 0.0}),
        (DPO(loss_type="ipo", reference_free=True), {"cpo_alpha": 0.0}),
        (DPO(label_smoothing=0.2, reference_free=True), {"cpo_alpha": 0.0, "label_smoothing": 0.2}),
    ],
    ids=str,
)
def test_a_loss_without_a_reference_is_that_of_trls_cpo_trainer(
    loaded: Any, tmp_path: Path, objective: Any, options: dict[str, Any]
) -> None:
    moved(loaded[0])
    ours = ours_of(loaded, objective, PAIRS, tmp_path)
    options = {
        "beta": objective.beta,
        "loss_type": getattr(objective, "loss_type", "simpo"),
        "cpo_alpha": getattr(objective, "cpo_alpha", 0.0),
        **options,
    }
    # TRL takes the mean log-likelihood over the batch's tokens: with one pair it is that pair's.
    batch = 1 if options["cpo_alpha"] else 8
    theirs = theirs_of(
        loaded, CPOTrainer, CPOConfig, PAIRS, tmp_path, batch=batch, max_length=512, **options
    )
    assert_equal_step(step(ours), step(theirs))
    # TRL logs a likelihood of 0 if its weight is 0. For DPO with "ipo" it logs what is compared.
    other = set() if options["cpo_alpha"] else set(NLL)
    logged = REWARDS | LOGPS | (set() if other else NLL)
    if isinstance(objective, DPO) and objective.loss_type == "ipo":
        other |= REWARDS | LOGPS
        logged = set()
    assert_equal_metrics(ours, theirs, logged | {"eval_loss"}, other=frozenset(other))


def nll(model: Any, tokenizer: Any, row: Any, *, prompt: bool) -> Tensor:
    """Per token, by transformers' own loss: of prompt and chosen answer, or of the answer alone."""
    ids = torch.tensor(
        [[*tokenizer(row["prompt"] + row["chosen"]).input_ids, tokenizer.eos_token_id]]
    )
    labels = ids.clone()
    if not prompt:
        labels[:, : len(tokenizer(row["prompt"]).input_ids)] = -100
    loss: Tensor = model(input_ids=ids, labels=labels).loss
    return loss


@pytest.mark.parametrize("beta", [0.1, 1.5])
def test_orpo_is_that_of_trls_trainer_except_for_the_loss_on_the_prompt(
    loaded: Any, tmp_path: Path, beta: float
) -> None:
    model, tokenizer = loaded
    moved(model)
    ours = ours_of(loaded, ORPO(beta=beta), PAIRS, tmp_path)
    theirs = theirs_of(
        loaded, ORPOTrainer, ORPOConfig, PAIRS, tmp_path, batch=1, beta=beta, max_length=512
    )
    loss, found = step(theirs)
    means = [
        torch.stack([nll(model, tokenizer, row, prompt=prompt) for row in PAIRS]).mean()
        for prompt in (False, True)
    ]
    instead = means[0] - means[1]
    changed = gradients(instead, model)
    expected = {name: found[name] + changed[name] for name in found}
    assert_equal_step(step(ours), (loss + instead.item(), expected))
    names = REWARDS | LOGPS | {"eval_log_odds_chosen", "eval_log_odds_ratio"}
    assert_equal_metrics(ours, theirs, names, other=frozenset({"eval_loss"} | NLL))
    assert ours.evaluate()["eval_nll_loss"] == pytest.approx(means[0].item(), rel=1e-5)


@pytest.mark.parametrize("weights", [(1.0, 1.0), (1.5, 0.6)])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_kto_is_that_of_trls_trainer(
    loaded: Any, tmp_path: Path, weights: tuple[float, float], sign: float
) -> None:
    """With both signs of the adapter: for one of them the divergence is clamped to 0.

    The adapter's effect is small: with log-ratios of 20 nats the sigmoid amplifies what float32
    rounds, to 1.3e-5 of the largest gradient (measured against float64).
    """
    rows = [
        {"prompt": row["prompt"], "completion": row[side], "label": side == "chosen"}
        for row, side in zip(PAIRS, ["chosen", "rejected", "chosen"] * 2, strict=True)
    ]
    good, bad = weights
    objective = KTO(beta=0.3, desirable_weight=good, undesirable_weight=bad)
    ours = ours_of(loaded, objective, rows, tmp_path)
    theirs = theirs_of(
        loaded, KTOTrainer, KTOConfig, rows, tmp_path, batch=8, beta=0.3, desirable_weight=good,
        undesirable_weight=bad, **IN_ORDER,
    )  # fmt: skip
    moved(loaded[0])
    with torch.no_grad():
        for name, parameter in loaded[0].named_parameters():
            if "lora_B.default" in name:
                parameter.mul_(0.3 * sign)
    assert_equal_step(step(ours), step(theirs))
    names = {"eval_loss", "eval_kl", "eval_rewards/chosen", "eval_rewards/rejected"}
    assert_equal_metrics(ours, theirs, names | LOGPS)
