"""benchmarks/gpu.py runs on a CPU at the tiny shape; a failing section does not end it."""

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_benchmarks import result_of

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The benchmark as a module."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("gpu")


def ran(
    gpu: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *given: str
) -> tuple[dict[str, Any], str]:
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--shape", "tiny", "--json", *given])
    # They would last for the next tests.
    monkeypatch.setattr(gpu.warnings, "simplefilter", lambda *_: None)
    monkeypatch.setattr(gpu.logging, "disable", lambda *_: None)
    monkeypatch.setattr(gpu, "disable_progress_bars", lambda: None)
    monkeypatch.setattr(gpu.transformers.logging, "set_verbosity_error", lambda: None)
    gpu.main()
    printed = capsys.readouterr().out
    return json.loads(printed.splitlines()[-1]), printed


def test_a_section_that_fails_says_so_and_the_next_one_runs(
    gpu: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(bench: Any) -> Iterator[tuple[str, float]]:
        yield "before", 1.0
        raise MemoryError("no memory left")

    monkeypatch.setitem(gpu.SECTIONS, "sft", broken)
    found, printed = ran(gpu, monkeypatch, capsys, "--sections", "sft", "matmul")
    assert found["sft"]["before"] == 1.0
    assert found["sft"]["error"] == "MemoryError: no memory left"
    assert "no memory left" in printed
    assert found["matmul"]["tflop_per_s"] > 0


def test_no_section_begins_after_the_time_is_over(
    gpu: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found, printed = ran(gpu, monkeypatch, capsys, "--seconds", "0")
    for name in gpu.SECTIONS:
        assert found[name] == {"skipped": "0 seconds were over"}
        assert f"{name:10} skipped" in printed


@pytest.mark.slow
def test_every_section_runs_at_the_tiny_shape() -> None:
    found = result_of("gpu.py", "--seconds", "600")
    assert not any("error" in part for part in found.values() if isinstance(part, dict)), found
    measured = {
        "sft": ["ours_1_rows_tokens_per_s", "trl_packed_1_rows_tokens_per_s"],
        "choices": ["ours_1_questions_questions_per_s", "bare_vectorised_1_questions_per_s"],
        "scoring": ["zero_shot_ours_questions_per_s", "zero_shot_hflm_2_questions_per_s",
                    "5_shot_ours_questions_per_s"],
        "generation": ["ours_2_answers_tokens_per_s", "transformers_2_answers_tokens_per_s"],
        "attention": ["packed_1024_dense_ms", "packed_1024_blocks_ms"],
    }  # fmt: skip
    for section, keys in measured.items():
        for key in keys:
            assert found[section][key] > 0, key
    assert 0 < found["sft"]["ours_1_rows_share_of_matrix_rate"] < 1
    assert found["sft"]["ours_1_rows_host_ms"] <= found["sft"]["ours_1_rows_step_ms"]


@pytest.mark.slow
def test_the_attention_benchmark_counts_less_work_in_blocks_for_longer_rows() -> None:
    found = result_of("attention.py", "--rounds", "1", "--lengths", "512", "2048")
    packed, few_shot = found["by_length"]["packed"], found["by_length"]["few_shot"]["2048"]
    assert packed["512"]["block_work"] == 1  # a row of one block
    long = packed["2048"]
    assert long["seen_pairs"] < long["flex_work"] < long["block_work"] < 0.5
    assert long["block_work"] < few_shot["block_work"] < 1
    assert found["crossing"]["packed"]["gflop"] == 2048
