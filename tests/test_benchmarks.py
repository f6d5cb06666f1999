"""The benchmarks run from the command line and print what they promise."""

import importlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
import trl
from datasets import Dataset
from forked import run_script

pytestmark = pytest.mark.same_everywhere

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


def result_of(script: str, *options: str) -> dict[str, Any]:
    """Return the last line that a benchmark prints, at the tiny shape."""
    done = run_script(BENCHMARKS / script, "--shape", "tiny", "--json", *options)
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


@pytest.mark.slow
def test_the_layout_benchmark_tokenises_in_less_time_than_the_harness() -> None:
    result = result_of("layout.py", "--rounds", "1", "--questions", "100")
    for shots in ("zero_shot", "five_shot"):
        parts = result["tokenise"][shots] + result["lay_out"][shots]
        assert result["seconds"][shots] == pytest.approx(parts, abs=2e-3)
        assert 0 < result["tokenise"][shots] < result["hflm_tokenise"][shots]
    assert result["positions"]["zero_shot"] < result["positions"]["five_shot"]


@pytest.mark.slow
def test_the_launches_benchmark_counts_fewer_operations_and_bytes_than_peft_as_it_comes() -> None:
    result = result_of("launches.py", "--compile", "false", "--layers", "2")
    for step in ("t4_sft", "t4_choices", "a100_sft", "a100_choices"):
        ours, before = result[step]["ours"], result[step]["as_they_come"]
        assert ours["tokens"] == before["tokens"] > 0
        assert ours["ops_per_step"] < before["ops_per_step"]
        assert result[step]["bytes_ratio"] < 0.9
        assert result[step]["rival"]["ops_per_step"] > 0


@pytest.mark.slow
def test_the_preference_benchmark_gives_trls_gradients_at_the_cost_of_the_tree() -> None:
    result = result_of("preferences.py", "--rounds", "1", "--pairs", "2")
    kinds = ("plain", "long_prompt", "group")
    for kind in kinds:
        assert result[f"speedup_{kind}"] > 0
        assert result[f"speedup_precomputed_{kind}"] > 0
        assert result[f"speedup_padding_free_{kind}"] is None
        assert result["fraction_of_limit"][kind] > 0
        positions = result["positions"][kind]
        assert positions["forest_tokens"] <= positions["ours"] < positions["trl"]
        assert positions["forest_tokens"] < positions["separate_tokens"] < positions["trl"]
    assert result["grad_rel_diff"] < 1e-4
    assert result["peak_rss_ratio"] > 0
    plain, long_prompt, group = (result["flop_limit"][kind] for kind in kinds)
    assert 1 < plain < long_prompt < group
    # Eight pairs of six answers: a prompt and six answers pass, not 16 times both.
    assert result["positions"]["group"]["trl"] > 4 * result["positions"]["group"]["ours"]


@pytest.mark.slow
def test_the_policy_benchmark_gives_trls_gradients_at_the_cost_of_the_tree() -> None:
    result = result_of("policy.py", "--rounds", "1", "--num_generations", "4")
    kinds = ("question", "few_shot", "silent")
    for kind in kinds:
        assert result[f"speedup_{kind}"] > 0
        assert result["fraction_of_limit"][kind] > 0
        positions = result["positions"][kind]
        assert positions["forest_tokens"] <= positions["ours"] < positions["separate_tokens"]
        assert positions["separate_tokens"] < positions["trl"]
    assert result["grad_rel_diff"] < 1e-4
    assert result["peak_rss_ratio"] > 0
    question, few_shot, silent = (result["flop_limit"][kind] for kind in kinds)
    assert 1 < question < few_shot
    # Two of four groups pass only one token each.
    assert silent == pytest.approx(2 * question, rel=0.2)
    assert result["speedup_whole_step"] > 0
    whole = result["whole_step"]
    for name in ("ours", "trl"):
        assert whole["ended"][name] > 0.5
        assert whole["frac_reward_zero_std"][name] < 0.5


@pytest.mark.slow
def test_the_generation_benchmark_finds_the_same_answers_with_less_work() -> None:
    options = ["--rounds", "1", "--problems", "24", "--batch_size", "6", "--kinds", "lora"]
    result = result_of("generation.py", *options)
    for key in ("speedup", "speedup_64"):
        assert result[key]["lora"] > 0, key
    assert result["same_answers"]["lora"] == 1
    assert 1 <= result["passes"]["lora"] < 1.2
    assert result["tokens"]["lora"] > 24 * 20


@pytest.fixture
def policy(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The benchmark as a module."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # the benchmark sets it; restored afterwards
    return importlib.import_module("policy")


def test_what_is_counted_for_grpo_has_the_gradients_of_trls_trainer(
    policy: Any, tmp_path: Path
) -> None:
    problems, _ = policy.grade_school_problems()
    problems = problems.select(range(200))
    tokenizer = policy.tokenizer_for(problems, vocab_size=2000)
    (groups,) = policy.turns_of("question", problems, tokenizer, count=1, size=4)
    model, start = policy.model_to_train("tiny")
    rows = policy.both_rows("question", groups, model)
    trainer = policy.trl_trainer(model, tokenizer, tmp_path)
    (_, counted, gradients), (_, passed, expected), (_, _, divided) = (
        policy.step(method, model, start, rows["trl"])
        for method in (
            policy.padded,
            policy.step_of(trainer, size=4),
            policy.step_of(trainer, size=2),
        )
    )
    assert counted == passed
    assert policy.largest_difference(gradients, expected) < 1e-4
    assert policy.largest_difference(divided, expected) < 1e-4


def test_the_operations_of_both_grpo_steps_are_counted_as_by_hand(policy: Any) -> None:
    """Two answers of three tokens to a prompt of 40; and a second group without signal."""
    prompt, answers = [*range(40)], [[50 + side, 60 + side, 70 + side] for side in (0, 1)]
    old, advantages = [[-1.0] * 3] * 2, [0.7, -0.7]
    ours = {
        "input_ids": [[*prompt, *answer] for answer in answers],
        "labels": [[-100] * 40 + answer for answer in answers],
        "old": old,
        "ended": [True] * 2,
        "advantages": advantages,
    }
    theirs = {
        "prompt_ids": [prompt] * 2,
        "completion_ids": answers,
        "old_per_token_logps": old,
        "advantages": advantages,
    }
    word = 2 * 128 * policy.SHAPES["tiny"]["vocab_size"]
    # Projected: the prompt's end and all but the last token of each answer, in two products.
    tree = layers(1, 40 + 4) + 2 * word * (1 + 4)
    padded = layers(2, 43) + 3 * word * 2 * 42  # once more in the backward pass
    limit = policy.flop_limit("question", "tiny", [ours], [theirs])
    assert limit == pytest.approx(padded / tree, rel=1e-3)

    rows = [ours, {**ours, "advantages": [0.0] * 2}]
    limit = policy.flop_limit("silent", "tiny", rows, [theirs] * 2)
    assert limit == pytest.approx(2 * padded / (tree + layers(1, 1)), rel=1e-3)


@pytest.fixture
def preferences(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The benchmark as a module."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # the benchmark sets it; restored afterwards
    return importlib.import_module("preferences")


def test_what_is_counted_for_trl_has_the_gradients_of_trls_trainer(
    preferences: Any, tmp_path: Path
) -> None:
    problems, _ = preferences.grade_school_problems()
    problems = problems.select(range(200))
    tokenizer = preferences.tokenizer_for(problems, vocab_size=2000)
    (pairs,) = preferences.turns_of("plain", problems, tokenizer, count=1, size=3)
    model, start = preferences.model_to_train("tiny")
    trainer = preferences.trl_trainer(model, tokenizer, pairs, tmp_path, precompute=False)
    rows = [*trainer.train_dataset]
    found = [
        preferences.step(method, model, start, rows)
        for method in (preferences.padded, preferences.step_of(trainer))
    ]
    (_, counted, gradients), (_, passed, expected) = found
    assert counted == passed
    assert preferences.largest_difference(gradients, expected) < 1e-4


def test_trl_pads_whatever_padding_free_says(preferences: Any, tmp_path: Path) -> None:
    """If this fails, TRL has the option again, and the benchmark should measure it."""
    problems, _ = preferences.grade_school_problems()
    tokenizer = preferences.tokenizer_for(problems.select(range(9)), vocab_size=500)
    model, _ = preferences.model_to_train("tiny")
    trainer = trl.DPOTrainer(
        model,
        args=trl.DPOConfig(str(tmp_path), padding_free=True, use_cpu=True, bf16=False),
        train_dataset=Dataset.from_list([{"prompt": "a", "chosen": "b", "rejected": "c"}]),
        processing_class=tokenizer,
    )
    assert trainer.padding_free is False


def test_the_operations_of_both_dpo_steps_are_counted_as_by_hand(preferences: Any) -> None:
    """One pair at the tiny shape: a prompt of 40 tokens, and two answers of three tokens."""
    chosen, rejected = [[50 + side, 60 + side, 70 + side] for side in (0, 1)]
    prompt = [*range(40)]
    ours = {
        "input_ids": [[*prompt, *chosen], [*prompt, *rejected]],
        "labels": [[-100] * 40 + chosen, [-100] * 40 + rejected],
    }
    theirs = {"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected}
    limit = preferences.flop_limit("plain", "tiny", [ours], [theirs])

    word = 2 * 128 * preferences.SHAPES["tiny"]["vocab_size"]
    tree = layers(1, 40 + 4) + layers(1, 40 + 4, reference=True)
    tree += (2 + 1) * word * (1 + 4)  # the prompt's end and all but the last token of each answer
    separate = layers(2, 43) + layers(2, 43, reference=True)
    separate += (1 + 2 + 1) * word * 2 * 42  # once more in the backward pass
    assert limit == pytest.approx(separate / tree, rel=1e-3)


def layers(rows: int, length: int, *, reference: bool = False) -> int:
    """Operations of the tiny shape's layers: forward and backward, or the reference's forward."""
    hidden, inner, total = 128, 384, 0
    into_layer = [(hidden, hidden), (hidden, hidden // 2), (hidden, hidden // 2)]  # q, k, v
    others = [(hidden, hidden), (hidden, inner), (hidden, inner), (inner, hidden)]
    for layer in range(4):
        for place, (a, b) in enumerate([*into_layer, *others]):
            products = 2 * a * b + 3 * 16 * (a + b)  # forward, input gradient; LoRA also weights
            if layer == 0 and place < 3:  # nothing below is trained, so no input gradient
                products -= a * b + 16 * a
            total += 2 * rows * length * (a * b if reference else products)
        # Attention: 2 products forward, 4 backward.
        total += (4 if reference else 12) * rows * length**2 * hidden
    return total


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

    predictors, hidden = 1 + 5, 128
    total = layers(1, 40 + 5)
    total += 4 * predictors * hidden * common.SHAPES["tiny"]["vocab_size"]
    assert ours == pytest.approx(total, rel=1e-3)
