"""The protocol of objectives: what an objective declares is all that the trainer needs."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
import torch
from datasets import Dataset, DatasetDict
from model_files import base
from pair_training import (
    PAIRS,
    assert_same_gradients,
    gradients,
    moved,
    trainer,
)
from torch import Tensor
from torch.nn.functional import logsigmoid
from transformers import (
    AutoTokenizer,
    Qwen2ForCausalLM,
    Qwen2ForSequenceClassification,
)

from mathsft.models import distributions
from mathsft.models.adapters import add_adapter
from mathsft.models.forest import IGNORE, TokenForest
from mathsft.models.logprobs import Scores, SequenceLogprobs, last_hidden, sequence_logprobs
from mathsft.objectives import objective_class, objective_classes
from mathsft.objectives.base import Group, Loss, Objective, Row
from mathsft.objectives.preference import DPO, Pairwise
from mathsft.objectives.sft import SFT
from mathsft.training.runs import run_differences, run_identity


@pytest.fixture(scope="module")
def tokenizer(small_model_dir: Path) -> Any:
    return AutoTokenizer.from_pretrained(small_model_dir)


@pytest.fixture
def adapted(small_model_dir: Path) -> Any:
    torch.manual_seed(1)
    return add_adapter(base(small_model_dir), r=4, lora_dropout=0.0)


def test_every_module_of_the_folder_gives_its_objectives_by_name() -> None:
    known = {"sft", "multiple_choice", "dpo", "cpo", "simpo", "orpo", "smpo", "kto"}
    assert known <= objective_classes().keys()
    with pytest.raises(ValueError, match="did you mean 'dpo'"):
        objective_class("dpoo")


# A legal value that differs from every objective's default; other numbers are doubled.
OTHER = {
    "label_smoothing": 0.1, "sft_weight": 0.2, "cpo_alpha": 0.3, "chosen_sft_ratio": 0.5,
    "lower_clip_percentile": 0.1, "upper_clip_percentile": 0.9, "center_rewards_coefficient": 0.1,
    "beta": 0.3, "epsilon_high": 0.5, "max_completion_length": 77, "ce_weight": 0.2, "top_k": 5,
}  # fmt: skip
ELSEWHERE = {"teacher": "x", "teacher_adapter": "x", "on_policy": True}


@pytest.mark.same_everywhere
@pytest.mark.parametrize("name", sorted(objective_classes()))
def test_every_field_of_an_objective_is_part_of_a_runs_identity(
    adapted: Any, tokenizer: Any, tmp_path: Path, name: str
) -> None:
    kind = objective_class(name)
    question = {"question": "1 + 1?", "solution": "It is 2.", "answer": "2"}
    problem = {**question, "choices": ["2", "3"], "label": 0}
    group = {"prompt": "1 + 1?", "completions": [" 2", " 3"], "rewards": [1.0, 0.0]}
    rows = PAIRS if "preference" in kind.kinds else [problem] * 3
    rows = [group] * 3 if "group" in kind.kinds else rows
    rows = [{"text": "1 + 1", "label": 1}] * 3 if name == "classification" else rows
    lengths = [f.name for f in fields(kind) if f.name == "max_completion_length"]
    stored: Any = dict.fromkeys(lengths, 9)  # which stored answers need
    if any(f.name == "kl_estimator" for f in fields(kind)):
        stored["kl_estimator"] = "k3"  # k1 is 0 for them, and refused
    usual = kind(**stored)
    run = run_identity(trainer(adapted, tokenizer, tmp_path, usual, rows=rows))
    for field in fields(kind):
        value = getattr(usual, field.name)
        if field.name in ELSEWHERE:  # it would need another model, or another trainer
            changed = trainer(adapted, tokenizer, tmp_path, usual, rows=rows)
            changed.objective = replace(usual, **{field.name: ELSEWHERE[field.name]})
            assert any(field.name in line for line in run_differences(run, run_identity(changed)))
            continue
        if get_origin(field.type) is Literal:
            value = next(other for other in get_args(field.type) if other != value)
        elif field.name in OTHER:
            value = OTHER[field.name]
        else:
            value = not value if isinstance(value, bool) else value * 2
        changed = trainer(
            adapted, tokenizer, tmp_path, replace(usual, **{field.name: value}), rows=rows
        )
        assert any(field.name in line for line in run_differences(run, run_identity(changed)))
    own = {f"{name}.{field}": value for field, value in asdict(usual).items()}
    assert own.items() <= run["settings"].items()


@dataclass(frozen=True)
class _Margin(Pairwise):
    """A user's own objective: the margin of the mean log-probabilities, without a reference."""

    name = "a margin of a test"
    needs_reference = False

    def pair_loss(self, chosen: Scores, rejected: Scores) -> Tensor:
        return -self.beta * (chosen.mean - rejected.mean)

    def loss(self, logprobs: SequenceLogprobs, batch: Mapping[str, Tensor]) -> Loss:
        assert logprobs.reference is None
        chosen, rejected = (logprobs.of(batch["choice"][:, side]) for side in (0, 1))
        return Loss(self.pair_loss(chosen, rejected).sum(), {"tokens": logprobs.tokens[::2]})


def test_a_users_own_objective_trains_and_its_metrics_are_logged(
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
    """Bradley-Terry over the hidden state after each answer: the loss of a reward model."""

    name = "reward of a test"
    kinds = ("preference",)
    needs_hidden = True

    def groups(
        self, rows: Sequence[Row], tokenizer: Any, *, first: int, arrow: bool
    ) -> list[Group]:
        groups = DPO().groups(rows, tokenizer, first=first, arrow=arrow)
        for group in groups:  # the stop is an input too: add one more token
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
    monkeypatch.setattr(distributions, "LOGITS_AT_ONCE", at_once)
    student, teacher = (
        base(small_model_dir).eval(),
        moved(add_adapter(base(small_model_dir), r=4)).eval(),
    )
    ids = [[5, 6, 7, 8, 9], [5, 6, 7, 3], [5, 6, 11, 12, 13, 14]]
    batch = scored(ids, 2)

    def kl(token: Tensor, ours: Tensor, theirs: Tensor) -> tuple[Tensor]:
        p = theirs.log_softmax(-1)
        return ((p.exp() * (p - ours.log_softmax(-1))).sum(-1),)

    with torch.no_grad():
        expected_from = sequence_logprobs(teacher, batch)
    found = sequence_logprobs(student, batch)
    (values,) = found.over_logits(kl, expected_from)
    sums = found.over_sequences(values)
    ours = gradients(sums.sum(), student)
    plain = []
    for one in ids:
        tokens = torch.tensor([one[:-1]])
        with torch.no_grad():
            theirs = teacher(input_ids=tokens).logits[0, 1:]
        ours_alone = student(input_ids=tokens).logits[0, 1:]
        plain.append(kl(tokens[0, 1:], ours_alone, theirs)[0].sum())
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


def test_several_named_test_sets_are_evaluated(
    adapted: Any, tokenizer: Any, tmp_path: Path
) -> None:
    tests = {"all": PAIRS, "two": PAIRS[:2]}
    made = trainer(
        adapted, tokenizer, tmp_path, DPO(), eval_rows=tests, reference="before_training"
    )
    found = made.evaluate()
    alone = trainer(adapted, tokenizer, tmp_path, DPO(), eval_rows=PAIRS[:2]).evaluate()
    assert found["eval_two_loss"] == pytest.approx(alone["eval_loss"], rel=1e-5)
    assert "eval_all_rewards/margins" in found


class _Undecorated(SFT):
    extra: float = 1.0


@pytest.mark.parametrize(
    ("objective", "rows", "told"),
    [
        (DPO, PAIRS, r"expected an instance, such as SFT\(\) or DPO\(beta=0.1\), found <class"),
        ("dpo", PAIRS, "expected an instance"),
        (Objective(), PAIRS, 'Objective has no name: give it name = "…"'),
        (_Undecorated(), PAIRS, r"extra of the objective _Undecorated is not a setting: put @data"),
        (DPO(), DatasetDict({"train": Dataset.from_list(PAIRS)}), r"such as rows\['train'\]"),
        (DPO(), "pairs.jsonl", r"found a text. Load them: load_problems\('pairs.jsonl'\)"),
        (DPO(), Dataset.from_list(PAIRS).select([]), "there are no rows"),
        (DPO(), [], "there are no rows"),
    ],
)
def test_a_trainer_refuses_a_wrong_objective_or_wrong_rows(
    adapted: Any, tokenizer: Any, tmp_path: Path, objective: Any, rows: Any, told: str
) -> None:
    with pytest.raises(ValueError, match=told):
        trainer(adapted, tokenizer, tmp_path, objective, rows=rows)


def test_another_class_or_another_loss_is_another_run(
    adapted: Any, tokenizer: Any, tmp_path: Path
) -> None:
    @dataclass(frozen=True)
    class Steeper(DPO):
        def pair_loss(self, chosen: Scores, rejected: Scores) -> Tensor:
            return 2 * super().pair_loss(chosen, rejected)

    runs = [run_identity(trainer(adapted, tokenizer, tmp_path, o)) for o in (DPO(), Steeper())]
    (line,) = run_differences(*runs)
    assert line.startswith("objective dpo, now dpo (class test_another_class_or_another_loss")
