"""The benchmarks run from the command line and print what they promise."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


def result_of(script: str, *options: str) -> dict[str, Any]:
    """Return the last line that a benchmark prints, at the tiny shape."""
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / script), "--shape", "tiny", "--json", *options],
        env=os.environ | {"PYTHONPATH": str(BENCHMARKS.parent)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


@pytest.mark.slow
def test_the_packing_benchmark_measures_three_trainers_and_the_isolation() -> None:
    result = result_of("packing.py", "--rounds", "1", "--documents", "20")
    speeds = ["useful_tokens_per_s", "trl_padded_tokens_per_s", "trl_packed_tokens_per_s"]
    for key in [*speeds, "ratio_vs_trl_padded", "ratio_vs_trl_packed"]:
        assert result[key] > 0, key
    assert result["max_logit_diff"] < 1e-5
    assert result["fill"] >= (0.95 if os.environ.get("MATHSFT_DATA_DIR") else 0.9)


@pytest.mark.slow
def test_the_multiple_choice_benchmark_gives_equal_gradients_at_the_cost_of_the_forest() -> None:
    result = result_of("multiple_choice_training.py", "--rounds", "1", "--questions", "4")
    ratios = ["speedup_vs_loop", "speedup_vs_vectorised", "peak_rss_ratio", "fraction_of_limit"]
    for key in [*ratios, "questions_per_s"]:
        assert result[key] > 0, key
    assert result["grad_rel_diff"] < 1e-4
    assert result["flop_limit_vs_vectorised"] > 2

    positions = result["positions"]
    assert positions["forest_tokens"] <= positions["ours"] < positions["separate_tokens"]
    assert positions["separate_tokens"] <= positions["vectorised"]

    few, many = result["by_choices"][0], result["by_choices"][-1]
    assert (few["choices"], many["choices"]) == (2, 32)
    assert many["separate_tokens"] > 14 * few["separate_tokens"]
    for cost in ("forest_tokens", "forest_gflop"):
        assert few[cost] < many[cost] < 8 * few[cost], cost


@pytest.mark.slow
def test_the_scoring_benchmark_gives_the_harness_s_numbers_from_fewer_positions() -> None:
    for more in ([], ["--num_fewshot", "3", "--sampler", "first_n"]):
        result = result_of("multiple_choice_scoring.py", "--rounds", "1", "--questions", "6", *more)
        for key in ("speedup", "fraction_of_limit", "peak_rss_ratio"):
            assert result[key] > 0, key
        assert result["max_abs_diff"] < 1e-4
        assert result["same_predictions"] is True
        assert result["flop_limit"] > 2.5
        assert result["positions"]["ours"] < result["positions"]["hflm"] / 2.5


def test_floating_point_operations_are_counted_as_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of our steps at the tiny shape: a question, five choices, LoRA of rank 16."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # the benchmark sets it; restored afterwards
    import common
    import multiple_choice_training as benchmark

    question = {
        "input_ids": [[*range(40), 50 + choice, 60 + choice] for choice in range(5)],
        "labels": [[-100] * 40 + [50 + choice, 60 + choice] for choice in range(5)],
        "characters": [2] * 5,
        "label": 0,
    }
    ours, _ = benchmark.count_both("tiny", [question])

    shape = common.SHAPES["tiny"]
    hidden, inner, layers = 128, 384, 4
    tokens, predictors = 40 + 5, 1 + 5
    into_layer = [(hidden, hidden), (hidden, hidden // 2), (hidden, hidden // 2)]  # q, k, v
    others = [(hidden, hidden), (hidden, inner), (hidden, inner), (inner, hidden)]
    total = 0
    for layer in range(layers):
        for place, (a, b) in enumerate([*into_layer, *others]):
            products = 2 * a * b + 3 * 16 * (a + b)  # forward, input gradient; LoRA also weights
            if layer == 0 and place < 3:  # nothing below is trained, so no input gradient
                products -= a * b + 16 * a
            total += 2 * tokens * products
        total += 12 * tokens**2 * hidden  # attention: 2 products forward, 4 backward
    total += 4 * predictors * hidden * shape["vocab_size"]
    assert ours == pytest.approx(total, rel=1e-3)
