"""Several processes give the same as one: training, checkpoints, evaluation, sharding."""

import json
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import distributed_work
import pytest
import torch
from namespaces import two_hosts
from safetensors.torch import load_file
from torchrun import command, environment, torchrun

from mathsft.evaluation.results import load_results
from mathsft.evaluation.tables import results_table
from mathsft.models.adapters import load_adapter, save_adapter
from mathsft.models.likelihood import choice_logprobs
from mathsft.models.loading import load_model
from mathsft.objectives.sft import SFT
from mathsft.training.batches import Collator
from mathsft.training.checkpoints import checkpoint_problem

WORK = Path(__file__).with_name("distributed_work.py")
TRAININGS = distributed_work.TRAININGS
# Older versions of accelerate shard tied weights in a way that torch now forbids.
can_shard = pytest.mark.skipif(
    tuple(map(int, version("accelerate").split(".")[:2])) < (1, 15),
    reason="this accelerate cannot shard tied weights with torch 2.13",
)
METRICS = ["accuracy", "eval_accuracy", "rewards/margins", "eval_logps/chosen", "eval_nll_loss"]
SHARD = ["sharded"] if not can_shard.args[0] else []


@pytest.fixture(scope="session")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of one process."""
    folder = tmp_path_factory.mktemp("one")
    arguments = [
        sys.executable,
        WORK,
        folder,
        "1",
        "train",
        "full-dpo",
        "scores",
        "attempts",
        *SHARD,
    ]
    subprocess.run(list(map(str, arguments)), env=environment(), check=True, capture_output=True)
    return folder


@pytest.fixture(scope="session")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of two processes; the file `printed` holds their output."""
    folder = tmp_path_factory.mktemp("two")
    distributed_work.GSM.save_to_disk(folder / "rows")
    jobs = ["train", "full-dpo", "scores", "stop", "diverge", "clock", "tokenise", "attempts",
            "unjudged", *SHARD]  # fmt: skip
    printed = torchrun(WORK, folder, 2, *jobs)
    (folder / "printed").write_text(printed)
    return folder


def difference(a: Path, b: Path) -> float:
    """The largest difference between the weights of two files."""
    ours, theirs = load_file(a), load_file(b)
    assert ours.keys() == theirs.keys()
    return max((ours[key] - theirs[key]).abs().max().item() for key in ours)


def adapter(folder: Path) -> Path:
    return folder / "adapter" / "adapter_model.safetensors"


def read(path: Path, rank: int = 0) -> Any:
    return json.loads(path.with_name(f"{path.name}.{rank}.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize(("objective", "accumulation"), TRAININGS)
def test_two_processes_train_the_adapter_of_one_though_rows_do_not_divide(
    objective: str, accumulation: int, one: Path, two: Path
) -> None:
    name = f"{objective}-{accumulation}"
    # Adam turns rounding of a gradient near 0, as of a policy with equal rewards, into steps.
    limit = 3e-5 if objective == "grpo" else 1e-5
    assert difference(adapter(one / name), adapter(two / name)) < limit


@pytest.mark.slow
def test_with_dropout_two_processes_do_not_train_the_adapter_of_one(
    two: Path, tmp_path: Path
) -> None:
    trainer = distributed_work.trainer_of("choices", tmp_path, dropout=0.1)  # as in `stop_amid`
    trainer.train()
    save_adapter(trainer.model, tmp_path / "adapter")
    assert difference(adapter(tmp_path), adapter(two / "whole")) > 1e-4


def test_fewer_processes_than_were_asked_for_are_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["distributed_work.py", str(tmp_path), "2"])
    with pytest.raises(AssertionError, match="1 processes were started, not 2"):
        distributed_work.main()


@pytest.mark.slow
@pytest.mark.parametrize(("objective", "accumulation"), TRAININGS)
def test_logs_and_held_out_losses_are_those_of_all_processes(
    objective: str, accumulation: int, one: Path, two: Path
) -> None:
    alone = read(one / f"{objective}-{accumulation}" / "log")
    rows = -(-13 // (4 * accumulation)) * 2
    # GPO's gradient is small, since it has the probability of a token as a factor.
    close = 1e-4 if objective == "gpo" else 1e-5
    assert sum("loss" in entry for entry in alone) == rows
    for rank in (0, 1):
        together = read(two / f"{objective}-{accumulation}" / "log", rank)
        for entry, other in zip(alone, together, strict=True):
            for key in ("loss", "grad_norm", "eval_loss", *METRICS):
                assert (key in entry) == (key in other)
                assert other.get(key, 0) == pytest.approx(entry.get(key, 0), rel=close, abs=1e-6)
            if objective == "sft" and "num_tokens" in entry:
                fillers = other["num_tokens"] - entry["num_tokens"]
                assert 0 <= fillers <= 3 * 2  # three per epoch, of one token each


@pytest.mark.slow
def test_a_reference_from_before_training_is_split_and_matched_with_its_own_pairs(
    one: Path, two: Path
) -> None:
    alone, together = (read(folder / "full-dpo" / "log") for folder in (one, two))
    assert alone[-1]["eval_loss"] < alone[0]["eval_loss"] - 0.001
    for entry, other in zip(alone, together, strict=True):
        for key in ("loss", "grad_norm", "eval_loss", "rewards/margins", "eval_rewards/chosen"):
            assert (key in entry) == (key in other)
            assert other.get(key, 0) == pytest.approx(entry.get(key, 0), rel=1e-4, abs=1e-6)


@pytest.mark.slow
def test_two_processes_learn_from_the_attempts_of_one(one: Path, two: Path) -> None:
    (asked, *alone), (others, *together) = (
        read(folder / "attempts" / "log") for folder in (one, two)
    )
    assert sorted(asked) == sorted(others)  # the processes' prompts come one after the other
    for entry, other in zip(alone, together, strict=True):
        for key in ("loss", "grad_norm", "reward", "reward_std", "kl", "entropy", "mine"):
            assert other.get(key, 0) == pytest.approx(entry.get(key, 0), rel=1e-3, abs=1e-4)
    assert difference(adapter(one / "attempts"), adapter(two / "attempts")) < 1e-4
    resumed = two / "attempts" / "resumed" / "adapter_model.safetensors"
    assert resumed.read_bytes() == adapter(two / "attempts").read_bytes()


@pytest.mark.slow
def test_a_reward_that_raises_in_one_process_stops_all(two: Path) -> None:
    for rank in (0, 1):
        assert "'reward', row 0" in read(two / "unjudged", rank)


@pytest.mark.slow
def test_lines_are_printed_once(two: Path) -> None:
    printed = (two / "printed").read_text()
    assert printed.count("tiny-gsm/train: 40 rows read") == 1
    trainings = len(TRAININGS) + 1 + 3 + 1 + 1 + 6 * len(SHARD)
    assert sum(line.startswith("train: 13 ") for line in printed.splitlines()) == trainings
    assert printed.count("training resumes after step 6 of 8") == 1
    assert printed.count("training had ended: its weights and its log are loaded, step 8 of 8") == 1


@pytest.mark.slow
def test_two_processes_stopped_inside_an_epoch_resume_to_the_bit(two: Path) -> None:
    assert adapter(two / "stopped").read_bytes() == adapter(two / "whole").read_bytes()


@pytest.mark.slow
def test_a_loss_that_is_not_finite_in_one_process_stops_all(two: Path) -> None:
    for rank in (0, 1):
        assert read(two / "diverged", rank).startswith("optimiser step 1: the loss is not finite")


@pytest.mark.slow
def test_the_first_process_s_clock_says_when_all_save(two: Path) -> None:
    saved = {path.name: path for path in (two / "clock" / "run").glob("checkpoint-*")}
    assert saved.keys() == {f"checkpoint-{step}" for step in (1, 2, 3)}
    assert [checkpoint_problem(path) for path in saved.values()] == [None] * 3


@pytest.mark.slow
def test_rows_on_disk_are_tokenised_by_the_first_process_for_all(two: Path) -> None:
    (first, theirs), (second, same) = (read(two / "tokenise" / "found", rank) for rank in (0, 1))
    assert (first, second) == (len(distributed_work.GSM), 0)
    assert theirs == same


@pytest.mark.slow
@pytest.mark.parametrize("shots", [0, 2])
def test_questions_shared_out_give_the_table_of_one_process(
    shots: int, one: Path, two: Path
) -> None:
    alone, first, second = (
        read(folder / f"scores-{shots}", rank) for folder, rank in [(one, 0), (two, 0), (two, 1)]
    )
    assert first == second
    assert first["harness"] == pytest.approx(alone["harness"], rel=1e-12)
    assert len(first["questions"]) == 11  # two processes cannot share them evenly
    for ours, theirs in zip(first["questions"], alone["questions"], strict=True):
        found, wanted = ours.pop("loglikelihoods"), theirs.pop("loglikelihoods")
        assert found == pytest.approx(wanted, abs=1e-5, rel=1e-6)
        assert ours == theirs
    tables = [
        [r for r in load_results(folder / "results") if r.num_fewshot == shots]
        for folder in (one, two)
    ]
    assert len(tables[1]) == 1
    assert str(results_table(tables[0])) == str(results_table(tables[1]))


@pytest.mark.slow
def test_worked_answers_come_whole_and_in_order_to_every_process(one: Path, two: Path) -> None:
    wanted = read(one / "worked")
    assert len(wanted) == 7
    assert wanted == read(two / "worked", 0) == read(two / "worked", 1)


@can_shard
@pytest.mark.slow
@pytest.mark.parametrize("trained", ["adapter", "full"])
@pytest.mark.parametrize("objective", distributed_work.SHARDED)
def test_sharded_weights_are_trained_and_saved_as_those_of_one_process(
    objective: str, trained: str, one: Path, two: Path
) -> None:
    name = f"sharded-{objective}-{trained}"
    alone, logs = read(one / name / "log"), [read(two / name / "log", rank) for rank in (0, 1)]
    assert not alone["sharded"]
    assert sum(log["held"] for log in logs) == alone["all"]
    for log in logs:
        assert log["sharded"]
        assert log["held"] == pytest.approx(alone["all"] / 2, rel=0.01)
        assert log["steps"] == [pytest.approx(step, rel=1e-5) for step in alone["steps"]]
    file = "adapter/adapter_model" if trained == "adapter" else "model/model"
    files = [folder / name / f"{file}.safetensors" for folder in (one, two)]
    assert difference(*files) < 1e-5


@can_shard
@pytest.mark.slow
def test_what_was_saved_from_shards_loads_in_a_single_process(two: Path) -> None:
    model, _ = load_model("tiny", device="cpu")
    load_adapter(model, two / "sharded-sft-adapter" / "adapter")  # raises if it does nothing
    full, tokenizer = load_model(two / "sharded-choices-full" / "model", device="cpu")
    question = {"question": "1 + 1?", "choices": ["2", "3"], "label": 0}
    assert choice_logprobs(full, tokenizer, [question])
    assert not any(parameter.is_meta for parameter in full.parameters())


@pytest.mark.slow
def test_a_killed_process_ends_the_run_soon_and_the_next_start_resumes_to_the_bit(
    tmp_path: Path,
) -> None:
    began = time.monotonic()
    killed = subprocess.run(
        command(WORK, tmp_path, 2, "killed"), env=environment(), capture_output=True,
        text=True, timeout=300, check=False,
    )  # fmt: skip
    took = time.monotonic() - began
    assert killed.returncode != 0
    assert "SIGKILL" in killed.stderr
    assert not adapter(tmp_path / "killed").exists()
    checkpoints = (tmp_path / "killed" / "run").glob("checkpoint-*")
    assert any(checkpoint_problem(path) is None for path in checkpoints)
    print(f"ended after {took:.0f} s, the start included")
    printed = torchrun(WORK, tmp_path, 2, "again", "calm")
    assert printed.count("training resumes after step") == 1
    assert adapter(tmp_path / "killed").read_bytes() == adapter(tmp_path / "calm").read_bytes()


@pytest.mark.slow
def test_two_hosts_train_the_adapter_of_one_process(one: Path, tmp_path: Path) -> None:
    with two_hosts() as hosts:
        started = []
        for number, host in enumerate(hosts):
            # Real hosts know by name which of them is the endpoint; here we must say it.
            launch = (
                "--nnodes=2", "--rdzv_backend=c10d", f"--rdzv_endpoint={hosts[0].address}:29400",
                "--rdzv_id=two", f"--rdzv_conf=is_host={int(number == 0)}",
                f"--local_addr={host.address}",
            )  # fmt: skip
            begin = command(WORK, tmp_path, 2, "train-one", processes=1, launch=launch)
            started.append(subprocess.Popen(
                [*host.inside, *begin], env=environment() | {"GLOO_SOCKET_IFNAME": host.interface},
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            ))  # fmt: skip
        try:
            printed = [process.communicate(timeout=400)[0] for process in started]
        finally:
            for process in started:
                process.kill()
    assert [process.returncode for process in started] == [0, 0], "\n".join(printed)[-6000:]
    assert difference(adapter(one / "choices-1"), adapter(tmp_path / "choices-1")) < 1e-5


def test_an_epoch_has_each_row_once_in_the_order_of_one_process_and_then_fillers() -> None:
    from mathsft.training.batches import FilledRows, FilledSampler

    rows = [{"input_ids": [[n, n, n]], "labels": [[n, n, n]]} for n in range(13)]
    filled = FilledRows(rows)
    sampler = FilledSampler(filled, batch=4, seed=7)
    orders = []
    for epoch in (0, 1):
        filled.set_epoch(epoch)
        orders.append(list(sampler))
        permutation = torch.randperm(13, generator=torch.Generator().manual_seed(7 + epoch))
        assert orders[-1] == [*permutation.tolist(), 13, 14, 15]
    assert len(sampler) == 16
    assert len(filled) == 13
    assert filled[12] is rows[12]
    collate = Collator(SFT(), pad_token_id=0)
    alone, beside = collate([rows[12]]), collate([rows[12], filled[14]])
    assert beside["row_tokens"].tolist() == [2, 1]
    for key in ("labels", "predictor", "token", "sequence"):  # neither scored nor counted
        assert torch.equal(alone[key], beside[key])
