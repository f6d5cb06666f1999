"""Calling rewards: a failure names the row, parts stay visible, TRL takes them unchanged."""

import pickle
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from datasets import Dataset
from transformers import AutoTokenizer

from mathsft.generation.reward_calls import RewardError, call_reward, reward_name
from mathsft.generation.rewards import (
    AnswerFormat,
    FinalAnswer,
    JudgedBy,
    Length,
    reward_by_name,
)
from mathsft.generation.weighted import Weighted

TEXTS = ["#### 18", "#### 1", "18"]
ROWS: dict[str, Any] = {
    "prompts": ["How many?", "Why?", [{"role": "user", "content": "When?"}]],
    "answer": ["18", "18", "18"],
    "completion_ids": [[1], [1, 1], [1, 1, 1]],
}


def called(reward: Any, /, **columns: Any) -> list[Any]:
    return call_reward(reward, completions=TEXTS, **ROWS, **columns)


def test_a_reward_that_raises_stops_the_call_and_names_the_first_row_that_fails() -> None:
    def divides(completions: list[str], answer: list[str], **_: Any) -> list[float]:
        assert len(completions) == len(answer)
        return [1 / (len(text) - 6) for text in completions]

    with pytest.raises(
        RewardError, match=r"'divides', row 1 \(prompt 'Why\?'\) raised Zero"
    ) as found:
        called(divides)
    assert isinstance(found.value.__cause__, ZeroDivisionError)


def test_a_failure_of_all_rows_together_is_told_apart() -> None:
    def one_at_a_time(completions: list[str], **_: Any) -> list[float]:
        if len(completions) > 1:
            raise MemoryError("too many")
        return [0.0]

    with pytest.raises(RewardError, match=r"all rows at once \(each alone passes\), raised Memory"):
        called(one_at_a_time)


def test_the_inner_rewards_row_is_the_one_that_is_named() -> None:
    columns = {**ROWS, "answer": ["18", "18", "who knows"]}
    for reward in (FinalAnswer(), Weighted([Weighted([FinalAnswer()])])):
        with pytest.raises(RewardError, match=r"^reward 'final_answer', row 2 \(prompt 'When\?'\)"):
            call_reward(reward, completions=TEXTS, **columns)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([0.0, 1.0], "'f' gave 2 values for 3 completions"),
        ([0.0, float("nan"), 1.0], r"'f', row 1 .* gave nan; it must be a finite number"),
        ([0.0, 1.0, torch.tensor(float("inf"))], "row 2 .* gave inf"),
        ([0.0, "1", 1.0], "row 1 .* gave '1'"),
        ([0.0, None, 1.0], "row 1 .* gave None, which only a part"),
        ([torch.zeros(2)] * 3, "row 0 .* gave tensor"),
        (None, "raised TypeError"),
    ],
)
def test_anything_but_a_finite_number_for_each_completion_is_refused(
    given: Any, message: str
) -> None:
    def f(**_: Any) -> Any:
        return given

    with pytest.raises(RewardError, match=message):
        called(f)


def test_numbers_of_torch_and_numpy_become_floats() -> None:
    def f(**_: Any) -> Any:
        return (torch.tensor(0.5), numpy.float32(0.5), True)

    assert called(f) == [0.5, 0.5, 1.0]
    assert [type(value) for value in called(f)] == [float] * 3
    assert called(lambda **_: torch.ones(3)) == [1.0] * 3


def test_columns_may_be_called_as_arguments_are_and_be_arrays_or_columns_of_a_data_set() -> None:
    names = {"reward": ["a"] * 3, "parts": ["b"] * 3}
    assert called(Weighted([FinalAnswer()]), **names) == [1.0, 0.0, 0.0]
    rows = Dataset.from_dict({"answer": ROWS["answer"]})
    for answer in (rows["answer"], numpy.array(["18"] * 3), (18, 18, 18)):
        assert FinalAnswer()(completions=TEXTS, answer=answer) == [1.0, 0.0, 0.0]


def test_a_column_of_another_length_and_one_text_are_refused() -> None:
    with pytest.raises(RewardError, match="2 answer for 3 completions"):
        FinalAnswer()(completions=TEXTS, answer=["1", "2"])
    with pytest.raises(RewardError, match="completions is one text"):
        FinalAnswer()(completions="#### 18", answer=["18"])


def test_weighted_sums_keep_their_parts_and_log_them() -> None:
    def sometimes(completions: list[str], **_: Any) -> list[float | None]:
        return [None, 4.0, 8.0]

    parts = [FinalAnswer(), AnswerFormat(), Length(1, 3), sometimes, Length(0, 2)]
    reward = Weighted(parts, [1, 0.5, 2, 0.25, 0])
    expected = {
        "final_answer": [1, 0, 0],
        "answer_format": [1, 1, 0],
        "length": [0, -0.5, -1],
        "sometimes": [None, 4, 8],
        "length_5": [-0.5, -1, -1],
    }
    assert reward.parts(TEXTS, **ROWS) == expected
    assert called(reward) == reward.total(expected) == [1.5, 0.5, 0.0]
    assert called(Weighted(parts[:2])) == [2, 1, 0]
    logged: dict[str, float] = {}
    assert called(reward, log_metric=logged.__setitem__) == [1.5, 0.5, 0.0]
    assert logged["rewards/final_answer/mean"] == pytest.approx(1 / 3)
    assert logged["rewards/sometimes/mean"] == 6.0
    with pytest.raises(RewardError, match=r"'weighted', row 0 .*: all parts gave None"):
        called(Weighted([sometimes]))


def test_rewards_can_be_sent_to_another_process() -> None:
    reward = Weighted([FinalAnswer(eos_token_id=2), AnswerFormat("boxed"), Length(1, 3)])
    again = pickle.loads(pickle.dumps(reward))
    assert again == reward
    assert [reward_name(part) for part in again.rewards] == [
        "final_answer",
        "answer_format",
        "length",
    ]


def test_rewards_are_made_from_names_and_settings() -> None:
    thought = "<think>3 * 6 = 18</think><answer>18</answer>"
    parts = ["final_answer", {"name": "answer_format", "style": "think"}]
    made = reward_by_name("weighted", rewards=parts, weights=[1, 0.5])
    assert made(completions=[thought, "#### 18"], answer=["18"] * 2) == [1.5, 1.0]
    assert reward_by_name("soft_overlong", max_length=50, cache=20) == Length(30, 50)
    for wrong, message in (
        ({"name": "final_anwser"}, "unknown reward 'final_anwser'.*did you mean 'final_answer'"),
        (
            {"name": "length", "targte": 3},
            "unknown setting of the reward 'length' 'targte'.*target",
        ),
        ({"name": "length", "target": 3}, "needs the setting 'max_length'"),
        ({"name": "length", "target": 3, "max_length": 2}, "max_length=2: give .* target=3"),
        ({"name": "soft_overlong", "max_length": 3, "cache": 4}, "cache=4: give"),
        ({"name": "answer_format", "style": "xml"}, "unknown answer format 'xml'"),
        ({"name": "weighted", "rewards": [{"style": "think"}]}, "has no name"),
        ({"name": "weighted", "rewards": []}, "at least one"),
        ({"name": "weighted", "rewards": parts, "weights": [1]}, "2 rewards and 1 weights"),
        ({"name": "weighted", "rewards": parts, "weights": [1, "a"]}, r"weights\[1\]='a'"),
    ):
        with pytest.raises(ValueError, match=message):
            reward_by_name(**wrong)


def trl_trainer(model: Path, folder: Path, rewards: list[Any], rows: list[Any]) -> Any:
    from trl import GRPOConfig, GRPOTrainer

    return GRPOTrainer(
        str(model),
        reward_funcs=rewards,
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(model),
        args=GRPOConfig(
            output_dir=str(folder),
            max_steps=1,
            per_device_train_batch_size=16,
            num_generations=16,
            max_completion_length=48,
            report_to="none",
            use_cpu=True,
            logging_steps=1,
            save_strategy="no",
            disable_tqdm=True,
        ),
    )


@pytest.mark.slow
def test_trl_trains_with_the_rewards_unchanged(small_model_dir: Path, tmp_path: Path) -> None:
    stop = AutoTokenizer.from_pretrained(small_model_dir).eos_token_id
    seen: list[Any] = []

    def ended(completions: Any, completion_ids: Any, **_: Any) -> list[float]:
        seen.extend(zip(completions, completion_ids, strict=True))
        return [float(ids[-1] == stop) for ids in completion_ids]

    score = JudgedBy(lambda prompts, completions: [len(text) for text in completions])
    reward = Weighted([FinalAnswer(eos_token_id=stop), score])
    rows = [{"prompt": f"{n} + 1 =", "answer": str(n + 1)} for n in range(16)]
    rewards = [reward, Length(2, 48), AnswerFormat(), ended]
    trainer = trl_trainer(small_model_dir, tmp_path, rewards, rows)
    trainer.train()
    log = next(line for line in trainer.state.log_history if "reward" in line)
    texts, ids = zip(*seen, strict=True)
    mean = {key: log[f"rewards/{key}/mean"] for key in ("weighted", "length", "ended")}
    assert mean["weighted"] == pytest.approx(sum(map(len, texts)) / 16)
    over = [max(0, len(tokens) - 2) / 46 for tokens in ids]
    assert mean["length"] == pytest.approx(-sum(over) / 16, abs=1e-6)
    assert log["rewards/answer_format/mean"] == 0
    assert log["reward"] == pytest.approx(sum(mean.values()), abs=1e-4)
    # TRL's ids have the stop token at their end, so `eos_token_id` tells which completions ended.
    assert mean["ended"] > 0
    assert all((tokens[-1] == stop) == (len(tokens) < 48) for tokens in ids)


def test_a_reward_that_raises_stops_trl_with_the_row(small_model_dir: Path, tmp_path: Path) -> None:
    rows = [{"prompt": "1 + 1 =", "answer": "who knows"}] * 16
    trainer = trl_trainer(small_model_dir, tmp_path, [FinalAnswer()], rows)
    with pytest.raises(RewardError, match=r"'final_answer', row 0 \(prompt '1 \+ 1 ='\): the ref"):
        trainer.train()
