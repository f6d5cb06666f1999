"""Rewards of answers are those of separate passes, and the table is what numpy and scipy say."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ttest_1samp

from mathsft.generation.scoring import RewardScores, score
from mathsft.models.loading import load_model
from mathsft.models.reward_head import load_reward_model

ROWS = [
    {"prompt": "Tom has 3 pens and eats 1.\n\n", "completion": "He has 2.", "model": "a"},
    {
        "prompt": "Tom has 8 pens and eats 5.\n\n",
        "completions": ["He has 3 pens left.", "3", "He has 3 pens left."],
        "model": "b",
    },
    {"prompt": "Tom has 3 pens and eats 1.\n\n", "completion": "2 pens, I think.", "model": "b"},
    {"prompt": "Tom has 8 pens and eats 5.\n\n", "completion": "13", "model": "a"},
]


@pytest.fixture(scope="module")
def loaded() -> Any:
    model, tokenizer = load_reward_model("tiny", lora={"r": 4}, device="cpu")
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name or "score" in name:
            torch.nn.init.normal_(parameter, std=0.1, generator=generator)
    return model, tokenizer


def alone(model: Any, tokenizer: Any, text: str) -> float:
    """The output at the stop token in a plain pass, from the hidden state by hand."""
    ids = torch.tensor([[*tokenizer(text).input_ids, tokenizer.eos_token_id]])
    with torch.no_grad():
        backbone = model.get_base_model().model
        return float(model.score(backbone(input_ids=ids).last_hidden_state[0, -1:]))


@pytest.mark.parametrize("limits", [(32, 1024), (3, 1024), (32, 30), (1, 20)])
def test_rewards_are_those_of_separate_passes(loaded: Any, limits: tuple[int, int]) -> None:
    model, _ = loaded
    model.train()
    found = score(*loaded, ROWS, batch_size=limits[0], max_length=limits[1])
    assert model.training
    model.eval()
    expected = [
        [alone(*loaded, row["prompt"] + c) for c in row.get("completions", [row.get("completion")])]
        for row in ROWS
    ]
    for ours, theirs in zip(found.rewards, expected, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-5)
    assert found.rewards[1][0] == pytest.approx(found.rewards[1][2], abs=1e-5)  # equal answers
    assert found.models == ["a", "b", "b", "a"]
    assert found.prompts == [0, 1, 0, 1]


def test_conversations_are_scored_in_the_chat_template(loaded: Any) -> None:
    model, tokenizer = loaded
    template = "{% for m in messages %}{{ m['content'] }}<|endoftext|>\n{% endfor %}"
    asked = [{"role": "user", "content": "What is 2 + 3?"}]
    turns = [{"role": "assistant", "content": "It is 5."}]
    tokenizer.chat_template = template
    try:
        rows: list[Any] = [
            {"messages": [*asked, *turns]},
            {"prompt": asked, "completion": turns},
            {"prompt": asked, "completions": [turns]},
        ]
        found = score(model, tokenizer, rows)
        ids = tokenizer.apply_chat_template([*asked, *turns], return_dict=True)["input_ids"]
    finally:
        tokenizer.chat_template = None
    with torch.no_grad():
        hidden = model.get_base_model().model(input_ids=torch.tensor([ids])).last_hidden_state
        expected = float(model.score(hidden[0, -1:]))
    assert found.rewards == [[pytest.approx(expected, abs=1e-5)]] * 3
    assert found.prompts == [0, 0, 0]
    assert found.models == ["all"] * 3


@given(
    st.lists(
        st.tuples(st.sampled_from("ab"), st.lists(st.floats(-5, 5), min_size=1, max_size=4)),
        min_size=1,
        max_size=12,
    )
)
@settings(max_examples=40, deadline=None)
def test_the_table_has_each_models_mean_spread_and_percentiles(rows: Any) -> None:
    models, rewards = [name for name, _ in rows], [values for _, values in rows]
    table = RewardScores(rewards, models, list(range(len(rows)))).table()
    assert list(table["model"]) == list(dict.fromkeys(models))
    for line in table.to_dict("records"):
        values = [v for name, some in rows if name == line["model"] for v in some]
        assert line["n"] == len(values)
        assert line["mean"] == pytest.approx(np.mean(values))
        assert line["std"] == pytest.approx(
            np.std(values, ddof=1) if len(values) > 1 else np.nan, nan_ok=True
        )
        for p in (5, 25, 50, 75, 95):
            assert line[f"p{p}"] == pytest.approx(np.percentile(values, p))


def test_with_one_answer_to_each_prompt_the_interval_is_students() -> None:
    values = [0.3, 1.2, -0.7, 2.0, 0.1]
    scores = RewardScores([[v] for v in values], ["m"] * 5, list(range(5)))
    line = scores.table().iloc[0]
    known = ttest_1samp(values, 0).confidence_interval(0.95)
    assert (line["low"], line["high"]) == pytest.approx((known.low, known.high))
    narrow = scores.table(confidence=0.5).iloc[0]
    assert line["low"] < narrow["low"] < narrow["high"] < line["high"]


def test_copies_of_an_answer_do_not_narrow_the_interval() -> None:
    values = [0.3, 1.2, -0.7, 2.0, 0.1]
    once = RewardScores([[v] for v in values], ["m"] * 5, list(range(5))).table().iloc[0]
    often = RewardScores([[v] * 9 for v in values], ["m"] * 5, list(range(5))).table().iloc[0]
    assert (often["n"], often["prompts"]) == (45, 5)
    assert (often["low"], often["high"]) == pytest.approx((once["low"], once["high"]))
    one = RewardScores([[0.3, 0.5]], ["m"], [0])
    assert np.isnan(one.table().iloc[0]["low"])
    assert "nan" in str(one).lower()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "2 + 3 ="}, "row 1: there is no answer"),
        ({"prompt": "2 + 3 =", "completions": []}, "row 1: there is no answer"),
        ({"text": "5"}, "row 1: it has neither prompt nor messages, only text"),
        (
            {"prompt": "2 + 3 =", "completion": "5<|endoftext|>6"},
            "row 1: training would drop this answer",
        ),
        ({"prompt": "1 " * 3000, "completion": "5"}, "row 1: prompt and answer have 6,0"),
    ],
    ids=str,
)
def test_a_row_that_cannot_be_scored_is_an_error(
    loaded: Any, row: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        score(*loaded, [ROWS[0], row])


def test_models_that_give_no_reward_are_refused() -> None:
    with pytest.raises(ValueError, match="no head 'score'"):
        score(*load_model("tiny", device="cpu"), ROWS)
    with pytest.raises(ValueError, match="the model's head has 2 outputs"):
        score(*load_reward_model("tiny", num_labels=2, device="cpu"), ROWS)
    model, tokenizer = load_reward_model("tiny", device="cpu")
    model.score.weight.data[0, 0] = float("nan")
    with pytest.raises(ValueError, match="score, row 0: the reward is nan"):
        score(model, tokenizer, ROWS)
