"""The protocol of objectives: what one says is all that the trainer needs."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from model_files import base
from torch import Tensor
from torch.nn.functional import logsigmoid
from transformers import AutoTokenizer, Qwen2ForCausalLM, Qwen2ForSequenceClassification

from mathsft.models import logprobs as logprobs_module
from mathsft.models.adapters import add_adapter
from mathsft.models.forest import IGNORE, TokenForest
from mathsft.models.logprobs import Scores, SequenceLogprobs, last_hidden, sequence_logprobs
from mathsft.objectives import objective_class, objective_classes
from mathsft.objectives.base import Group, Loss, Objective, Row
from mathsft.objectives.preference import DPO, Pairwise
from mathsft.training.make import make_trainer
from mathsft.training.runs import run_differences, run_identity

PAIRS = [
    {
        "prompt": f"Tom has {n} apples and eats {n - 1}. How many are left?\n\n",
        "chosen": "He has 1 left.",
        "rejected": f"He has {n} apples left." * (1 + n % 2),
    }
    for n in range(3, 10)
]


@pytest.fixture(scope="module")
def tokenizer(small_model_dir: Path) -> Any:
    return AutoTokenizer.from_pretrained(small_model_dir)


@pytest.fixture
def adapted(small_model_dir: Path) -> Any:
    torch.manual_seed(1)
    return add_adapter(base(small_model_dir), r=4, lora_dropout=0.0)


def moved(model: Any) -> Any:
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1, generator=generator)
    return model


def trainer(model: Any, tokenizer: Any, folder: Path, objective: Any, **arguments: Any) -> Any:
    settings = {"disable_tqdm": True, "per_device_train_batch_size": 3, "max_length": 200}
    rows = arguments.pop("rows", PAIRS)
    return make_trainer(
        model, tokenizer, rows, objective, output_dir=folder, **{**settings, **arguments}
    )


def plain_sum(model: Any, tokenizer: Any, prompt: str, answer: str) -> Tensor:
    """log p(answer and stop | prompt) by a plain pass."""
    ids = tokenizer(prompt).input_ids
    whole = [*tokenizer(prompt + answer).input_ids, tokenizer.eos_token_id]
    logits = model(input_ids=torch.tensor([whole[:-1]])).logits[0].float().log_softmax(-1)
    picked = logits[range(len(whole) - 1), whole[1:]]
    return picked[len(ids) - 1 :].sum()


def plain_dpo(model: Any, reference: Any, tokenizer: Any, rows: Any, beta: float) -> Tensor:
    losses = []
    for row in rows:
        ratios = []
        for side in ("chosen", "rejected"):
            ours = plain_sum(model, tokenizer, row["prompt"], row[side])
            with torch.no_grad():
                theirs = plain_sum(reference, tokenizer, row["prompt"], row[side])
            ratios.append(ours - theirs)
        losses.append(-logsigmoid(beta * (ratios[0] - ratios[1])))
    return torch.stack(losses).mean()


def gradients(loss: Tensor, model: Any) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def assert_same_gradients(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    largest = max(float(gradient.abs().max()) for gradient in theirs.values())
    for name in theirs:
        assert float((ours[name] - theirs[name]).abs().max()) <= 1e-5 * largest, name


def first_loss(made: Any) -> Tensor:
    made.model.train()
    loss: Tensor = made.compute_loss(made.model, made.collate(list(made.train_dataset)))
    return loss


def test_every_module_of_the_folder_gives_its_objectives_by_name() -> None:
    assert {"sft", "multiple_choice", "dpo"} <= objective_classes().keys()
    with pytest.raises(ValueError, match="did you mean 'dpo'"):
        objective_class("dpoo")


@pytest.mark.parametrize("name", sorted(objective_classes()))
def test_every_field_of_an_objective_is_part_of_a_runs_identity(
    adapted: Any, tokenizer: Any, tmp_path: Path, name: str
) -> None:
    kind = objective_class(name)
    question = {"question": "1 + 1?", "solution": "It is 2.", "answer": "2"}
    problem = {**question, "choices": ["2", "3"], "label": 0}
    rows = PAIRS if "preference" in kind.kinds else [problem] * 3
    other = {"normalization": "tokens"}
    run = run_identity(trainer(adapted, tokenizer, tmp_path, kind(), rows=rows))
    for field in fields(kind):
        value = getattr(kind(), field.name)
        value = not value if isinstance(value, bool) else other.get(field.name) or value * 2
        changed = trainer(
            adapted, tokenizer, tmp_path, replace(kind(), **{field.name: value}), rows=rows
        )
        assert any(field.name in line for line in run_differences(run, run_identity(changed)))
    assert asdict(kind()).items() <= run["settings"].items()


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
    assert first_loss(made).item() == pytest.approx(0.693147, abs=1e-5)  # it has not moved yet
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


@dataclass(frozen=True)
class _Margin(Pairwise):
    """An objective that somebody adds: the mean log-probabilities' margin, without a reference."""

    name = "a margin of a test"
    needs_reference = False

    def pair_loss(self, chosen: Scores, rejected: Scores) -> Tensor:
        return -self.beta * (chosen.mean - rejected.mean)

    def loss(self, logprobs: SequenceLogprobs, batch: Mapping[str, Tensor]) -> Loss:
        assert logprobs.reference is None
        chosen, rejected = (logprobs.of(batch["choice"][:, side]) for side in (0, 1))
        return Loss(self.pair_loss(chosen, rejected).sum(), {"tokens": logprobs.tokens[::2]})


def test_an_objective_of_ones_own_trains_and_its_metrics_are_logged(
    adapted: Any, tokenizer: Any, tmp_path: Path
) -> None:
    made = trainer(
        adapted, tokenizer, tmp_path, _Margin(), eval_rows=PAIRS, learning_rate=1e-2,
        logging_steps=1,
    )  # fmt: skip
    before = made.evaluate()
    made.train()
    after = made.evaluate()
    assert after["eval_loss"] < before["eval_loss"] - 0.02
    assert made.state.log_history[1]["tokens"] > 1
    assert after["eval_tokens"] == pytest.approx(
        sum(sum(n != IGNORE for n in row["labels"][0]) for row in made.train_dataset) / len(PAIRS)
    )


@dataclass(frozen=True)
class _Better(Objective):
    """Bradley-Terry over the hidden state after each answer: what a reward model trains."""

    name = "reward of a test"
    kinds = ("preference",)
    needs_hidden = True

    def groups(
        self, rows: Sequence[Row], tokenizer: Any, *, first: int, arrow: bool
    ) -> list[Group]:
        groups = DPO().groups(rows, tokenizer, first=first, arrow=arrow)
        for group in groups:  # the stop token passes too: one more to end on
            group.sequences = [
                {"input_ids": [*one["input_ids"], 0], "labels": [IGNORE] * (len(one["labels"]) + 1)}
                for one in group.sequences
            ]
        return groups

    def loss(self, logprobs: SequenceLogprobs, batch: Mapping[str, Tensor]) -> Loss:
        assert logprobs.value is not None
        rewards = logprobs.value[:, 0]
        chosen, rejected = (rewards[batch["choice"][:, side]] for side in (0, 1))
        return Loss(-logsigmoid(chosen - rejected).sum())


def test_a_value_heads_output_is_that_of_each_sequence_alone(
    small_model_dir: Path, tokenizer: Any, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = Qwen2ForSequenceClassification.from_pretrained(small_model_dir, num_labels=1)
    model.config.pad_token_id = tokenizer.pad_token_id
    sides = ("chosen", "rejected")
    texts = [row["prompt"] + row[side] for row in PAIRS for side in sides]
    ids = [[*tokenizer(text).input_ids, tokenizer.eos_token_id] for text in texts]
    forest = TokenForest(
        [{"input_ids": [*one, 0], "labels": [IGNORE] * len([*one, 0])} for one in ids]
    )
    batch = forest.tensors(pad_token_id=0)
    hidden, value = last_hidden(model.eval(), batch)
    assert value is not None
    for index, one in enumerate(ids):
        alone = model.model(input_ids=torch.tensor([one])).last_hidden_state[0, -1]
        torch.testing.assert_close(hidden[index], alone, rtol=0, atol=1e-5)
        torch.testing.assert_close(value[index], model.score(alone), rtol=0, atol=1e-5)
    rewards = value[:, 0].view(-1, 2)
    expected = -logsigmoid(rewards[:, 0] - rewards[:, 1]).mean()
    found = _Better().loss(
        SequenceLogprobs(
            value.new_zeros(0), batch["sequence"], batch["scored_tokens"], value=value
        ),
        {"choice": torch.arange(len(ids)).view(-1, 2)},
    )
    assert (found.total / len(PAIRS)).item() == pytest.approx(expected.item(), rel=1e-6)


def test_the_last_hidden_states_of_a_language_model_need_no_vocabulary(
    small_model_dir: Path,
) -> None:
    model = base(small_model_dir).eval()
    ids = [[5, 6, 7, 8], [5, 6, 9], [5, 6, 7, 3, 2, 1]]
    forest = TokenForest(
        [{"input_ids": [*one, 0], "labels": [IGNORE] * len([*one, 0])} for one in ids]
    )
    hidden, value = last_hidden(model, forest.tensors(pad_token_id=0))
    assert value is None
    for index, one in enumerate(ids):
        alone = model.model(input_ids=torch.tensor([one])).last_hidden_state[0, -1]
        torch.testing.assert_close(hidden[index], alone, rtol=0, atol=1e-5)


def scored(ids: Sequence[Sequence[int]], prompt: int) -> dict[str, Tensor]:
    rows = [{"input_ids": one, "labels": [IGNORE] * prompt + [*one[prompt:]]} for one in ids]
    return TokenForest(rows).tensors(pad_token_id=0)


@pytest.mark.parametrize("at_once", [1, 2**26])
def test_whole_distributions_are_compared_in_blocks_as_by_plain_passes(
    small_model_dir: Path, monkeypatch: Any, at_once: int
) -> None:
    """Forward KL from another model, with its gradients."""
    monkeypatch.setattr(logprobs_module, "LOGITS_AT_ONCE", at_once)
    student, teacher = (
        base(small_model_dir).eval(),
        moved(add_adapter(base(small_model_dir), r=4)).eval(),
    )
    ids = [[5, 6, 7, 8, 9], [5, 6, 7, 3], [5, 6, 11, 12, 13, 14]]
    batch = scored(ids, 2)

    def kl(ours: Tensor, theirs: Tensor) -> Tensor:
        p = theirs.log_softmax(-1)
        return (p.exp() * (p - ours.log_softmax(-1))).sum(-1)

    with torch.no_grad():
        expected_from = sequence_logprobs(teacher, batch)
    found = sequence_logprobs(student, batch)
    values = found.over_logits(kl, expected_from)
    sums = found.over_sequences(values)
    ours = gradients(sums.sum(), student)
    plain = []
    for one in ids:
        tokens = torch.tensor([one[:-1]])
        with torch.no_grad():
            theirs = teacher(input_ids=tokens).logits[0, 1:]
        plain.append(kl(student(input_ids=tokens).logits[0, 1:], theirs).sum())
    torch.testing.assert_close(sums, torch.stack(plain), rtol=1e-5, atol=1e-6)
    assert_same_gradients(ours, gradients(torch.stack(plain).sum(), student))


def test_embeddings_in_place_of_ids_give_the_same_scores_and_a_gradient(
    small_model_dir: Path,
) -> None:
    model: Qwen2ForCausalLM = base(small_model_dir).eval()
    ids = [[5, 6, 7, 8, 9], [5, 6, 7, 3]]
    batch = scored(ids, 3)
    embedded = model.get_input_embeddings()(batch["input_ids"]).detach().requires_grad_()
    found = sequence_logprobs(model, batch, inputs_embeds=embedded)
    torch.testing.assert_close(found.sum, sequence_logprobs(model, batch).sum)
    found.sum.sum().backward()
    assert embedded.grad is not None
    ours = embedded.grad[0, 1]  # of the second token, which both sequences share
    expected = torch.zeros_like(ours)
    for one in ids:
        alone = model.get_input_embeddings()(torch.tensor([one[:-1]])).detach().requires_grad_()
        logits = model(inputs_embeds=alone).logits[0].float().log_softmax(-1)
        logits[range(2, len(one) - 1), one[3:]].sum().backward()
        assert alone.grad is not None
        expected += alone.grad[0, 1]
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)


def test_a_reference_that_cannot_be_had_is_refused(
    small_model_dir: Path, adapted: Any, tokenizer: Any, tmp_path: Path
) -> None:
    full = base(small_model_dir)
    with pytest.raises(ValueError, match="no adapter to switch off"):
        trainer(full, tokenizer, tmp_path, DPO(), reference="adapter_off")
    with pytest.raises(ValueError, match="adapter_off or before_training"):
        trainer(adapted, tokenizer, tmp_path, DPO(), reference="copy")
    with pytest.raises(ValueError, match="compares with none"):
        trainer(adapted, tokenizer, tmp_path, _Margin(), reference="adapter_off")
    made = trainer(adapted, tokenizer, tmp_path, DPO(), reference="before_training")
    other = trainer(adapted, tokenizer, tmp_path, DPO())
    with pytest.raises(ValueError, match="give them as eval_rows"):
        made.evaluate(other.train_dataset)


def test_a_reference_of_weights_that_have_moved_is_not_gone_on_with(
    small_model_dir: Path, tokenizer: Any, tmp_path: Path, capsys: Any
) -> None:
    model = base(small_model_dir)
    how = {"max_steps": 2, "save_strategy": "steps", "save_steps": 1, "learning_rate": 1e-3}
    trainer(model, tokenizer, tmp_path, DPO(), **how).train()
    again = trainer(model, tokenizer, tmp_path, DPO(), **how)  # a cell that is run again
    again.train(resume_from_checkpoint=True)
    printed = capsys.readouterr().out
    assert "reference_start" in printed
    assert "training begins anew" in printed
