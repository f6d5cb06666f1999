"""GPO on stored groups: its formula over plain passes, in parts, online, and by recipe."""

import json
import re
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from model_files import base
from pair_training import assert_same_gradients, gradients
from policy_training import moved, step_batches, step_gradients
from policy_training import trainer as on_attempts
from test_policy_formulas import NOW, OLD, WEIGHTS, batch_of, scored
from torch import Tensor
from transformers import AutoTokenizer

from mathsft.data.problems import read_problems
from mathsft.generation.rollouts import Completion
from mathsft.models.adapters import add_adapter
from mathsft.models.logprobs import SequenceLogprobs
from mathsft.objectives.advantages import advantages
from mathsft.objectives.base import sequences_of
from mathsft.objectives.gpo import GPO
from mathsft.objectives.policy import GRPO, RLOO
from mathsft.training.make import make_trainer
from mathsft.training.rows import training_rows

ROWS: list[dict[str, Any]] = [
    {"prompt": "2 + 3 =", "completions": [" 5", " 6 or more"], "rewards": [1, 0]},
    {
        "prompt": "Tom has 4 pens and a pencil.\n\n",
        "completions": ["He writes.", "He has 5.", "He", "5 things to write with"],
        "rewards": [-0.3, 7.5, 7.5, 0.001],
        "ended": [True, True, False, True],
    },
    {"prompt": "1 + 1 =", "completions": [" 2", " 2.", " two"], "rewards": [1.0, 1.0, 1.0]},
    {"prompt": "Say no.", "completions": [" no", " yes", " no."], "rewards": [0.2, 0.1, 0.3]},
]


@pytest.fixture(scope="module")
def tokenizer(small_model_dir: Path) -> Any:
    return AutoTokenizer.from_pretrained(small_model_dir)


@pytest.fixture
def adapted(small_model_dir: Path) -> Any:
    torch.manual_seed(1)
    return moved(add_adapter(base(small_model_dir), r=4, lora_dropout=0.0), by=0.3, seed=1)


def plain(model: Any, tokenizer: Any, prompt: str, answer: str, *, ended: bool) -> Tensor:
    """log p of each token of an answer, by a pass of its own."""
    ids = tokenizer(prompt).input_ids
    whole = [*tokenizer(prompt + answer).input_ids, *[tokenizer.eos_token_id] * ended]
    return plain_ids(model, ids, whole[len(ids) :])


def plain_ids(model: Any, prompt: list[int], answer: list[int]) -> Tensor:
    whole = [*prompt, *answer]
    logits = model(input_ids=torch.tensor([whole[:-1]])).logits[0].float().log_softmax(-1)
    return logits[range(len(whole) - 1), whole[1:]][len(prompt) - 1 :]


def every(model: Any, tokenizer: Any) -> list[list[Tensor]]:
    return [
        [
            plain(model, tokenizer, row["prompt"], answer, ended=whole)
            for answer, whole in zip(row["completions"], row.get("ended", [True] * 9), strict=False)
        ]
        for row in ROWS
    ]


def by_hand(now: Any, old: Any, reference: Any, *, ratio: bool, beta: float, kl: str) -> Tensor:
    losses = []
    for row, *group in zip(ROWS, now, old, reference, strict=True):
        rewards, loss = row["rewards"], torch.zeros(())
        moved = [(lp - lp_ref).sum().item() for lp, _, lp_ref in zip(*group, strict=True)]
        penalties = [beta * (kl == "k1") * (one - fmean(moved)) for one in moved]
        for reward, penalty, lp, lp_old, lp_ref in zip(rewards, penalties, *group, strict=True):
            a = (reward - fmean(rewards)) / (pstdev(rewards) + 1e-4) - penalty
            rho = (lp - lp_old).exp()
            each = -lp.exp() * a
            if ratio:
                each = torch.maximum(-rho * a, -rho.clamp(0.8, 1.2) * a)
            d = lp_ref - lp
            loss = loss + (each + beta * (kl == "k3") * (d.exp() - d - 1)).mean() / len(rewards)
        losses.append(loss)
    return torch.stack(losses).mean()


@pytest.mark.parametrize("max_length", [400, 46])
@pytest.mark.parametrize(
    ("ratio", "beta", "kl"),
    [(False, 0.0, "k3"), (False, 0.3, "k3"), (False, 0.3, "k1"), (True, 0.0, "k3"),
     (True, 0.3, "k3")],
)  # fmt: skip
def test_the_loss_and_its_gradients_are_the_formula_over_separate_passes(
    adapted: Any, tokenizer: Any, tmp_path: Path, ratio: bool, beta: float, kl: Any, max_length: int
) -> None:
    """Groups of 2 to 4 in one step, one without signal, one answer cut; also groups in parts."""
    how = {"max_length": max_length, "per_device_train_batch_size": 4, "disable_tqdm": True}
    objective = GPO(ratio=ratio, beta=beta, kl_estimator=kl)
    made = make_trainer(adapted, tokenizer, ROWS, objective, output_dir=tmp_path, **how)
    assert made.reference == ("before_training" if beta else None)
    before = [[value.detach() for value in group] for group in every(adapted, tokenizer)]
    moved(adapted, by=0.3, seed=2)
    batch = made.collate(list(made.train_dataset))
    largest = max(objective.length([*sequences_of(row)]) for row in made.train_dataset)
    assert (largest > max_length) is (max_length < 400)  # its prompt passes twice
    assert len(batch["labels"]) == len(ROWS)
    loss, found = step_gradients(made, [batch], len(ROWS))
    now = every(adapted, tokenizer)
    expected = by_hand(now, before, before, ratio=ratio, beta=beta, kl=kl)
    assert loss == pytest.approx(expected.item(), rel=1e-5, abs=1e-6)
    if ratio:
        ratios = torch.cat([(a - b).exp() for x, y in zip(now, before) for a, b in zip(x, y)])  # noqa: B905
        assert ratios.min() < 0.8 < 1.2 < ratios.max()
    theirs = gradients(expected, adapted)
    assert max(float(gradient.abs().max()) for gradient in theirs.values()) > 1e-3
    assert_same_gradients(found, theirs)


@settings(max_examples=12, deadline=None, derandomize=True)
@given(order=st.permutations(range(4)), cut=st.integers(1, 3), max_length=st.integers(46, 120))
def test_a_step_is_the_same_however_it_is_divided(
    divided: Any, order: list[int], cut: int, max_length: int
) -> None:
    made, rows, expected = divided
    made.collate = type(made.collate)(made.objective, pad_token_id=0, max_length=max_length)
    parts = [[rows[place] for place in order[:cut]], [rows[place] for place in order[cut:]]]
    loss, found = step_gradients(made, [made.collate(part) for part in parts], 4)
    assert loss == pytest.approx(expected[0], rel=1e-5, abs=1e-6)
    assert_same_gradients(found, expected[1])


@pytest.fixture(scope="module")
def divided(small_model_dir: Path, tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    torch.manual_seed(1)
    model = moved(add_adapter(base(small_model_dir), r=4, lora_dropout=0.0), by=0.3, seed=1)
    folder = tmp_path_factory.mktemp("divided")
    made = make_trainer(model, tokenizer, ROWS, GPO(beta=0.1), output_dir=folder, disable_tqdm=True)
    rows = list(made.train_dataset)
    return made, rows, step_gradients(made, [made.collate(rows)], 4)


def gradient_of(objective: Any, logprobs: SequenceLogprobs, share: float = 0.5) -> list[float]:
    batch = batch_of(*WEIGHTS) | {"share": torch.full((3,), share)}
    objective.loss(logprobs, batch).total.backward()
    assert logprobs.values.grad is not None
    return logprobs.values.grad.tolist()


def test_a_token_is_pushed_in_proportion_to_its_probability() -> None:
    """-A p times the gradient of log p, over the answer's tokens and the group's answers."""
    expected = [
        -0.5 * weight * float(torch.tensor(value).exp()) / len(answer)
        for answer, weight in zip(NOW, WEIGHTS, strict=True)
        for value in answer
    ]
    assert gradient_of(GPO(), scored(*NOW)) == pytest.approx(expected, rel=1e-5)


def test_with_the_ratio_it_is_grpo_with_the_spread_of_the_population() -> None:
    """For groups of one size: GRPO divides by all answers of the step. Also after a step."""
    for old in (NOW, OLD):
        ours = gradient_of(GPO(ratio=True), scored(*NOW, old=old), share=1.0)
        theirs = gradient_of(GRPO(), scored(*NOW, old=old))
        assert ours == pytest.approx(theirs, rel=1e-6)
    rewards = [[1.0, 0.0, 0.0, 0.4]]
    ours, theirs = (
        advantages(rewards, baseline="group", scale_rewards=scale)[0]
        for scale in ("group_population", "group")
    )
    spread = pstdev(rewards[0])
    assert ours == pytest.approx([(r - 0.35) / (spread + 1e-4) for r in rewards[0]], rel=1e-12)
    assert ours == pytest.approx([(4 / 3) ** 0.5 * a for a in theirs], rel=1e-4)


@pytest.mark.parametrize("ratio", [False, True])
def test_stored_attempts_of_an_online_step_have_its_loss_and_gradients(
    adapted: Any, tokenizer: Any, tmp_path: Path, ratio: bool
) -> None:
    """The attempts go through a file: prompt, completions, rewards and whether they ended."""
    stop = tokenizer.eos_token_id

    def written(model: Any, tokenizer: Any, prompts: Any, *, numbers: Any, **_: Any) -> Any:
        """Texts whose tokens are those of the text: a random model writes others too."""
        groups = []
        for ids, number in zip(prompts, numbers, strict=True):
            texts = [f"{4 * number + n} pens{' or more' * (n % 2)}." for n in range(4)]
            answers = [
                [*tokenizer(text).input_ids, *[stop] * (n < 3)] for n, text in enumerate(texts)
            ]
            values = [plain_ids(model, [*ids], answer).tolist() for answer in answers]
            whole = [True, True, True, False]
            groups.append([*map(Completion, answers, texts, whole, values)])
        return groups

    made = on_attempts(
        adapted, tokenizer, GPO(ratio=ratio), tmp_path / "online", sampler=written,
        max_new_tokens=40,
    )  # fmt: skip
    batches, items = step_batches(made)
    assert items == 4
    expected = step_gradients(made, batches, items)
    lines = [
        {
            "prompt": made.prompts.prompts[group.row],
            "completions": [one.text for one in group.completions],
            "rewards": group.rewards,
            "ended": [one.ended for one in group.completions],
        }
        for group in made.last_attempts
    ]
    path = tmp_path / "attempts.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    rows, dropped = read_problems(path)
    assert not dropped
    stored = make_trainer(adapted, tokenizer, rows, GPO(ratio=ratio), output_dir=tmp_path / "s")
    found = step_gradients(stored, [stored.collate(list(stored.train_dataset))], 4)
    assert found[0] == pytest.approx(expected[0], rel=1e-5, abs=1e-6)
    assert_same_gradients(found[1], expected[1])


def test_answers_that_were_cut_can_be_left_out_and_count(tokenizer: Any) -> None:
    objective = GPO(mask_truncated_completions=True)
    rows = training_rows(ROWS, tokenizer, objective)
    passing = objective.passing(rows[1])
    assert len(passing["input_ids"]) == 3
    assert passing["share"] == [1 / 4] * 3
    cut, whole = rows[1]["input_ids"][2], rows[1]["input_ids"][0]
    assert cut[-1] != tokenizer.eos_token_id == whole[-1]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"rewards": [1]}, "row 0: 2 completions and 1 rewards"),
        ({"rewards": [1, float("inf")]}, "rewards[1]: expected a finite number, found inf"),
        ({"rewards": [1, 10**400]}, "rewards[1]: expected a finite number of at most 1e30, found"),
        ({"rewards": [-1e31, 0]}, "rewards[0]: expected a finite number of at most 1e30, found -1"),
        ({"rewards": ["1", 0]}, "rewards[0]: expected a finite number, found '1'"),
        ({"rewards": None}, "row 0"),
        ({"completions": " 5"}, "column 'completions': expected a list"),
        ({"completions": [" 5", None]}, "completions[1]: expected text or messages"),
        ({"ended": [True]}, "2 completions and 1 values in 'ended'"),
        ({"ended": [True, 1]}, "column 'ended': expected true (the answer stopped by itself)"),
        ({"ended": "no"}, "column 'ended': expected a list"),
    ],
)
def test_a_broken_group_is_named(tokenizer: Any, changed: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        training_rows([{**ROWS[0], **changed}], tokenizer, GPO())


def test_groups_that_cannot_be_compared_are_counted(
    tokenizer: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = {"prompt": "2 + 3 =", "completions": [" 5"], "rewards": [1]}
    cut = {**ROWS[0], "completions": [" 5", ""], "ended": [True, False]}
    training_rows([*ROWS, alone, cut], tokenizer, GPO())
    told = capsys.readouterr().out
    assert "1 groups have equal rewards" in told
    assert "1 with a single answer, which has nothing to compare" in told
    assert "1 with an answer that was cut before its first token" in told


@pytest.mark.parametrize("settings", [{"epsilon": 1.0}, {"beta": -1}, {"scale_rewards": "std"}])
def test_settings_that_make_no_sense_are_refused(settings: Any) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        GPO(**settings)


@pytest.mark.parametrize(
    "objective", [GPO(ratio=True, beta=0.1, kl_estimator="k1"), RLOO(beta=0.1)]
)
def test_a_penalty_that_would_be_0_on_stored_answers_is_refused(
    tokenizer: Any, objective: Any
) -> None:
    with pytest.raises(ValueError, match="for stored answers these are the same: give 'k3'"):
        training_rows(ROWS, tokenizer, objective)
