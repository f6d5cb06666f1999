"""Reward models have TRL's loss and gradients, on the forest."""

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from pair_training import assert_same_gradients
from reward_training import MARGINS, METRICS, PAIRS, loaded_model, moved, ours_of, step, theirs_of

from mathsft.data.problems import load_problems, read_problems
from mathsft.data.prompts import sft_completion, sft_prompt
from mathsft.models.loading import load_model
from mathsft.models.logprobs import last_hidden
from mathsft.models.reward_head import load_reward_model
from mathsft.objectives.reward import RewardModel
from mathsft.training.make import make_trainer


@pytest.fixture
def loaded() -> Any:
    return loaded_model()


@pytest.mark.parametrize("rows", [PAIRS, MARGINS], ids=["plain", "margin"])
@pytest.mark.parametrize("coefficient", [0.0, 0.1])
def test_the_loss_and_all_gradients_are_those_of_trl(
    loaded: Any, tmp_path: Path, rows: Any, coefficient: float
) -> None:
    ours = ours_of(
        loaded, tmp_path, rows, objective=RewardModel(center_rewards_coefficient=coefficient)
    )
    assert len(ours.train_dataset) == len(rows) // 2  # pairs of one prompt share a row
    loss, found = step(ours)
    logged = ours.evaluate()
    theirs = theirs_of(loaded, tmp_path, rows, coefficient)
    expected, wanted = step(theirs)
    assert loss == pytest.approx(expected, rel=1e-5)
    assert any("lora_A" in name for name in wanted)
    assert any("score" in name for name in wanted)
    assert_same_gradients(found, wanted)
    said = theirs.evaluate()
    said |= theirs.state.log_history[-1]  # some versions keep their metrics only here
    for name in ("loss", *METRICS):
        assert logged[f"eval_{name}"] == pytest.approx(said[f"eval_{name}"], rel=1e-5), name


def test_the_loss_of_real_rows_is_that_of_trl(loaded: Any, tmp_path: Path, data_dir: Path) -> None:
    """GSM8K's worked solutions; the rejected answer is the solution of the next problem."""
    problems = read_problems(data_dir / "gsm8k" / "train.jsonl", limit=5)[0]
    rows = [
        {
            "prompt": sft_prompt(problem["question"]),
            "chosen": sft_completion(problem["solution"], problem["answer"]),
            "rejected": sft_completion(other["solution"], other["answer"]),
        }
        for problem, other in zip(problems.take(4), problems.skip(1), strict=True)
    ]
    ours = ours_of(loaded, tmp_path, rows, max_length=2048)
    assert len(ours.train_dataset) == 4
    loss, found = step(ours)
    expected, wanted = step(theirs_of(loaded, tmp_path, rows, 0.0, max_length=None))
    assert loss == pytest.approx(expected, rel=1e-5)
    assert_same_gradients(found, wanted)


def test_all_weights_without_an_adapter_have_trls_gradients(
    small_model_dir: Path, tmp_path: Path
) -> None:
    loaded = load_reward_model(small_model_dir, device="cpu")
    moved(loaded[0])
    loss, found = step(ours_of(loaded, tmp_path, MARGINS))
    expected, wanted = step(theirs_of(loaded, tmp_path, MARGINS, 0.0))
    assert loss == pytest.approx(expected, rel=1e-5)
    assert_same_gradients(found, wanted)


def test_two_answers_under_one_prompt_get_the_rewards_of_separate_passes(
    loaded: Any, tmp_path: Path
) -> None:
    model, tokenizer = loaded
    made = ours_of(loaded, tmp_path)
    rows = list(made.train_dataset)
    batch = made.collate(rows)
    _, values = last_hidden(model, batch)
    assert values is not None
    assert int(batch["row_tokens"].sum()) < 0.8 * sum(
        len(ids) - 1 for row in rows for ids in row["input_ids"]
    )
    model.config.pad_token_id = 1  # transformers would take a stop token for padding
    texts = [row["prompt"] + row[side] for row in PAIRS for side in ("chosen", "rejected")]
    encoded = [[*ids, tokenizer.eos_token_id] for ids in tokenizer(texts).input_ids]
    alone = torch.cat([model(input_ids=torch.tensor([ids])).logits for ids in encoded])
    torch.testing.assert_close(values, alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("padding", [None, 0, 1])
def test_the_padding_token_of_the_configuration_does_not_matter(
    loaded: Any, tmp_path: Path, padding: int | None
) -> None:
    made = ours_of(loaded, tmp_path, max_length=60)
    expected = step(made)[0]
    made.model.config.pad_token_id = padding
    assert step(made)[0] == expected
    assert made.model.config.pad_token_id == padding


def test_a_margin_must_be_a_finite_number(loaded: Any, tmp_path: Path) -> None:
    for wrong in (float("nan"), "much", True):
        rows = [*PAIRS[:1], {**PAIRS[1], "margin": wrong}]
        with pytest.raises(ValueError, match="row 1, column 'margin': expected a finite number"):
            ours_of(loaded, tmp_path, rows)


@pytest.mark.parametrize("ending", ["jsonl", "csv"])
def test_a_margin_is_read_from_a_file_and_rows_without_it_have_none(
    loaded: Any, tmp_path: Path, ending: str
) -> None:
    path = tmp_path / f"pairs.{ending}"
    rows = Dataset.from_list([*MARGINS[:3], {**PAIRS[3], "margin": None}])
    (rows.to_json if ending == "jsonl" else rows.to_csv)(path)
    read = load_problems(path)
    assert read["margin"] == [-1.0, -0.75, -0.5, None]
    made = ours_of(loaded, tmp_path, read)
    batch = made.collate(list(made.train_dataset))
    assert batch["margin"].tolist() == [-1.0, -0.75, -0.5, 0.0]


def test_training_ranks_pairs_of_new_prompts(tmp_path: Path) -> None:
    rows = [
        {"prompt": f"{n} + 1 =", "chosen": f" {n + 1}.", "rejected": f" {n + 1}!"}
        for n in range(40)
    ]
    loaded = load_reward_model("tiny", lora={"r": 4}, device="cpu")
    made = make_trainer(
        *loaded, rows[:32], RewardModel(), output_dir=tmp_path, eval_rows=rows[32:], max_steps=12,
        learning_rate=3e-3, disable_tqdm=True,
    )  # fmt: skip
    made.train()
    assert made.evaluate()["eval_accuracy"] == 1


def test_a_language_model_is_refused_and_so_is_a_head_with_several_outputs(tmp_path: Path) -> None:
    made = ours_of(load_model("tiny", lora={"r": 4}, device="cpu"), tmp_path)
    with pytest.raises(ValueError, match="no head 'score'"):
        made.evaluate()
    made = ours_of(load_reward_model("tiny", num_labels=2, device="cpu"), tmp_path)
    with pytest.raises(ValueError, match="the model's head has 2 outputs"):
        made.evaluate()
