"""The batch file for Slurm, run by bash; srun and scontrol are two small scripts in this test.

What Slurm does (assign machines, restart the job) is simulated: two "machines" are two runs of
torchrun on this machine, which connect as they would on two.
"""

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from importlib import resources
from pathlib import Path

import psutil
import pytest
from hub import LocalHub, local_hub  # noqa: F401  (the fixture)
from safetensors.torch import load_file
from stocked_hub import stock

SBATCH = Path(str(resources.files("mathsft.recipes") / "cluster.sbatch"))

# Starts its command once for each machine, and ends them all when one fails.
SRUN = """#!/bin/bash
while [[ $1 == --* ]]; do shift; done
for node in $(seq 1 "$SLURM_NNODES"); do "$@" & done
for node in $(seq 1 "$SLURM_NNODES"); do
    wait -n || { status=$?; kill $(jobs -p); exit $status; }
done
"""
SCONTROL = """#!/bin/bash
if [ "$1" = show ]; then echo localhost; else echo "$@" >> "$SCONTROL_LOG"; fi
"""
# The README's command, with a hub on this machine and fewer steps.
README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
(PRINTED,) = re.findall(r"^sbatch mathsft/recipes/cluster.sbatch (.*)$", README, re.MULTILINE)
SHORTER = [
    "--train.limit", "40", "--test.limit", "8", "--sft.max_length", "256", "--sft.max_steps", "12",
    "--sft.per_device_train_batch_size", "2", "--sft.save_steps", "2",
]  # fmt: skip


@pytest.fixture
def cluster(tmp_path: Path, local_hub: LocalHub) -> dict[str, str]:  # noqa: F811
    """The environment of a job on two machines of one process each."""
    stock(local_hub, ["Qwen/Qwen2.5-7B"])
    for name, text in {"srun": SRUN, "scontrol": SCONTROL}.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    return {
        **local_hub.environment(home=tmp_path / "home"),
        "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
        "PYTHON": sys.executable,
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "MATHSFT_RUNS": str(tmp_path / "runs"),
        "SCONTROL_LOG": str(tmp_path / "scontrol.log"),
        "SLURM_JOB_NAME": "mathsft",
        "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_NNODES": "2",
        "SLURM_GPUS_ON_NODE": "1",
    }


def start(environment: dict[str, str], output: Path) -> subprocess.Popen[str]:
    with output.open("a") as text:
        return subprocess.Popen(
            ["bash", str(SBATCH), *PRINTED.split(), *SHORTER],
            env=environment,
            stdout=text,
            stderr=subprocess.STDOUT,
            text=True,
        )


@pytest.mark.slow
def test_a_job_on_two_machines_is_requeued_and_resumes_from_its_checkpoint(
    cluster: dict[str, str], tmp_path: Path
) -> None:
    folder = tmp_path / "runs" / f"mathsft-{cluster['SLURM_JOB_ID']}"
    output = tmp_path / "job.out"
    job = start(cluster, output)
    try:
        until(lambda: any(folder.glob("checkpoint-*/manifest.json")), job, output)
        os.kill(job.pid, signal.SIGUSR1)  # Slurm's warning that the time is nearly up
        until(lambda: Path(cluster["SCONTROL_LOG"]).exists(), job, output)
    finally:
        # Slurm stops every process of a requeued job, also those in a session of their own.
        started = psutil.Process(job.pid).children(recursive=True)
        for process in [*started, job]:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(started)
        job.wait()
    queued = Path(cluster["SCONTROL_LOG"]).read_text()
    assert queued == f"requeue {cluster['SLURM_JOB_ID']}\n"
    assert not (folder / "adapter").exists(), "it ended before it could be interrupted"

    job = start({**cluster, "SLURM_RESTART_COUNT": "1"}, output)
    assert job.wait(timeout=200) == 0, output.read_text()[-4000:]
    told = output.read_text()
    assert "training resumes after step" in told
    assert load_file(folder / "adapter" / "adapter_model.safetensors")
    assert '"processes": 2' in (folder / "environment.json").read_text()


def until(happened: object, job: subprocess.Popen[str], output: Path) -> None:
    assert callable(happened)
    ends = time.monotonic() + 120
    while not happened():
        assert job.poll() is None, output.read_text()[-4000:]
        assert time.monotonic() < ends, output.read_text()[-4000:]
        time.sleep(0.02)


def test_the_job_asks_slurm_for_what_resuming_needs() -> None:
    lines = SBATCH.read_text().splitlines()
    asked = {line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH ")}
    assert {"--requeue", "--open-mode=append", "--ntasks-per-node=1"} <= asked
    assert any(one.startswith("--signal=B:USR1@") for one in asked)


def test_without_a_command_the_job_says_what_is_missing(cluster: dict[str, str]) -> None:
    done = subprocess.run(
        ["bash", str(SBATCH)], env=cluster, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "which command?" in done.stdout
