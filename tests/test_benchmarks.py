"""The benchmarks run from the command line and print what they promise."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


@pytest.mark.slow
def test_the_packing_benchmark_measures_three_trainers_and_the_isolation() -> None:
    options = ["--shape", "tiny", "--rounds", "1", "--documents", "20", "--json"]
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "packing.py"), *options],
        env=os.environ | {"PYTHONPATH": str(BENCHMARKS.parent)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    speeds = ["useful_tokens_per_s", "trl_padded_tokens_per_s", "trl_packed_tokens_per_s"]
    for key in [*speeds, "ratio_vs_trl_padded", "ratio_vs_trl_packed"]:
        assert result[key] > 0, key
    assert result["max_logit_diff"] < 1e-5
    assert result["fill"] >= (0.95 if os.environ.get("MATHSFT_DATA_DIR") else 0.9)
