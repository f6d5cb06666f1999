"""A training run that is killed many times ends with the weights of an undisturbed run."""

import json
import random
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import survival
from forked import server

from mathsft.training.checkpoints import checkpoint_problem


def started(*arguments: Any) -> Any:
    process = server().Process(target=survival.train, args=arguments)
    process.start()
    return process


def wait_for(condition: Any, process: Any, seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    while not condition() and process.is_alive() and time.monotonic() < until:
        time.sleep(0.001)


def kill_in_writing(process: Any, wanted: str, places: list[Path]) -> None:
    """Kill the process as soon as a new file or folder of that kind appears."""
    seen = {path for place in places for path in place.glob(wanted)}
    wait_for(lambda: {path for place in places for path in place.glob(wanted)} - seen, process, 5)
    process.kill()


# Half of them come while something is written.
KILLS = {"sft": 8, "multiple choice": 4, "preferences": 4, "rollouts": 4}


@pytest.mark.slow
@pytest.mark.parametrize(("objective", "kills"), KILLS.items())
def test_after_many_kills_and_resumes_the_weights_are_the_same_to_the_bit(
    objective: str, kills: int, tmp_path: Path
) -> None:
    calm = started(objective, tmp_path / "calm", None, tmp_path / "calm.log")
    calm.join(300)
    assert calm.exitcode == 0, (tmp_path / "calm.log").read_text()

    folder, mirror, log = tmp_path / "run", tmp_path / "mirror", tmp_path / "log"
    mirror.mkdir()
    log.touch()
    draw = random.Random(1)
    in_writing = [
        "checkpoint-*/run.json", "checkpoint-*/adapter_model.safetensors",
        "checkpoint-*/optimizer.pt", "checkpoint-*/trainer_state.json", ".checkpoint-*",
        ".checkpoint-*/*.safetensors", "checkpoint-*/manifest.json",
    ]  # fmt: skip
    killed = torn = 0
    for attempt in range(kills):
        if attempt == 3:  # the machine is gone, the copies are not
            shutil.rmtree(folder)
        ready = log.read_text().count("READY")
        process = started(objective, folder, mirror, log)
        wait_for(lambda ready=ready: log.read_text().count("READY") > ready, process)
        if attempt % 2:
            kill_in_writing(process, draw.choice(in_writing), [folder, mirror / "run"])
        else:  # after a step and its copy or more, however slow the machine is
            done = {*mirror.glob("*/checkpoint-*")}
            wait_for(lambda done=done: {*mirror.glob("*/checkpoint-*")} - done, process)
            time.sleep(draw.uniform(0, 0.2))
            process.kill()
        process.join()
        killed += process.exitcode == -9
        places = [*folder.glob("checkpoint-*"), *mirror.glob("*/checkpoint-*")]
        torn += any(map(checkpoint_problem, places)) or any(mirror.glob("*/.checkpoint-*"))
    text = log.read_text()
    assert killed == kills, text  # no run had reached its end
    assert torn >= kills // 8, "too few runs were killed in the middle of a write"
    print(f"{killed} kills, {torn} in the middle of a write")

    last = started(objective, folder, mirror, log)
    last.join(300)
    text = log.read_text()
    assert last.exitcode == 0, text
    assert "training resumes after step" in text
    assert f"DONE {survival.STEPS[objective]}" in text
    ends = [
        place / f"checkpoint-{survival.STEPS[objective]}"
        for place in (tmp_path / "calm", folder, mirror / "run")
    ]
    weights = [(end / "adapter_model.safetensors").read_bytes() for end in ends]
    assert weights[0] == weights[1] == weights[2]

    def history(end: Path) -> list[tuple[float, float, int]]:
        rows = json.loads((end / "trainer_state.json").read_text())["log_history"]
        return [(row["loss"], row["grad_norm"], row["num_tokens"]) for row in rows]

    assert history(ends[0]) == history(ends[1])  # losses, gradients and counts as well
    assert len(history(ends[0])) == survival.STEPS[objective]

    # And once more: nothing is left to train, and the result is there.
    again = started(objective, folder, mirror, log)
    again.join(300)
    assert "training had ended" in log.read_text()
    assert again.exitcode == 0
