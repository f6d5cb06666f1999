"""``mix_datasets`` and ``training_plan``: exact proportions, no test row, equal steps."""

import random
import subprocess
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict, Value
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import Trainer, TrainerCallback, TrainingArguments

from mathsft.data.contamination import without_test_rows
from mathsft.data.mixtures import mix_datasets, training_plan
from mathsft.data.problems import FEATURES, read_problems


def rows(source: str, count: int) -> Dataset:
    return Dataset.from_list(
        [
            {
                "question": f"{source} asks no {n} ?",
                "solution": "",
                "answer": str(n),
                "choices": ["4", "5"],
                "label": 1,
                "source": source,
            }
            for n in range(count)
        ],
        features=FEATURES,
    )


SETS = {"one": rows("one", 60), "two": rows("two", 40), "three": rows("three", 25)}


@settings(max_examples=40, deadline=None)
@given(st.fixed_dictionaries({name: st.integers(1, len(SETS[name])) for name in SETS}))
def test_counts_are_exact_and_no_row_comes_twice(parts: dict[str, int]) -> None:
    mixture = mix_datasets(parts, datasets=SETS, test=None)
    assert Counter(mixture["source"]) == parts
    assert len(set(mixture["question"])) == len(mixture) == sum(parts.values())


@settings(max_examples=60, deadline=None)
@given(
    st.fixed_dictionaries({name: st.sampled_from([0.25, 0.3, 1.0, 1.5]) for name in SETS}),
    st.integers(20, 25),
)
def test_weights_are_kept_to_within_a_row(parts: dict[str, float], total: int) -> None:
    mixture = mix_datasets(parts, datasets=SETS, total=total, test=None)
    assert len(mixture) == total
    for source, count in Counter(mixture["source"]).items():
        assert abs(count - total * parts[source] / sum(parts.values())) < 1


def test_without_a_total_the_scarcest_data_set_decides() -> None:
    mixture = mix_datasets(
        {"one": 0.5, "three": 0.5}, datasets={n: SETS[n] for n in ("one", "three")}, test=None
    )
    assert Counter(mixture["source"]) == {"one": 25, "three": 25}
    mixture = mix_datasets({"one": 0.7, "two": 0.2, "three": 0.1}, datasets=SETS, test=None)
    assert Counter(mixture["source"]) == {"one": 60, "two": 17, "three": 8}


def test_the_seed_decides_and_a_smaller_count_is_part_of_a_larger() -> None:
    def questions(count: int, seed: int = 0) -> list[str]:
        parts = {"one": count, "two": 10}
        sets = {name: SETS[name] for name in parts}
        return mix_datasets(parts, datasets=sets, test=None, seed=seed)["question"][:]

    random.seed(5)
    state, numbers = random.getstate(), np.random.get_state()[1].tolist()
    assert questions(30) == questions(30)
    assert questions(30) != questions(30, seed=1)
    assert set(questions(12)) < set(questions(30)) < set(questions(60))
    assert random.getstate() == state
    assert np.random.get_state()[1].tolist() == numbers


def test_the_order_is_mixed_and_the_line_says_what_is_in_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    mixture = mix_datasets({"one": 30, "two": 30}, datasets={n: SETS[n] for n in ("one", "two")},
                  test=rows("test", 7), seed=2)  # fmt: skip
    sources = mixture["source"][:]
    changes = sum(a != b for a, b in pairwise(sources))
    assert changes > 15
    assert capsys.readouterr().out == (
        "mix: 60 rows, seed 2: one 30 (50.0%), two 30 (50.0%); no row asks one of the 7 test "
        "questions\n"
    )


def test_names_are_loaded_and_every_row_keeps_its_source(
    capsys: pytest.CaptureFixture[str],
) -> None:
    mixture = mix_datasets({"tiny-mathqa": 20, "tiny-gsm": 10}, test=None)
    assert Counter(mixture["source"]) == {"tiny-mathqa": 20, "tiny-gsm": 10}
    assert mixture.features == FEATURES
    assert "not compared with any test" in capsys.readouterr().out


def test_a_question_of_the_test_is_refused_however_it_is_spaced() -> None:
    train = rows("one", 50)
    test = rows("test", 3).to_list()
    test[1]["question"] = "One  asks NO 7?"
    hidden = Dataset.from_list(test, features=FEATURES)
    for given_as in (hidden, [rows("other", 2), hidden]):
        with pytest.raises(ValueError, match="1 of 50 rows ask a question of the test, the first"):
            mix_datasets({"one": 50}, datasets={"one": train}, test=given_as)
    with pytest.raises(ValueError, match="say test=None"):
        mix_datasets({"one": 50}, datasets={"one": train}, test=[])


@pytest.mark.parametrize(
    ("parts", "total", "message"),
    [
        ({}, None, "give a count for every part"),
        ({"one": 5, "two": 0.5}, None, "give a count for every part"),
        ({"one": True}, None, "give a count for every part"),
        ({"one": 0}, None, "every part needs a count or a weight above 0"),
        ({"one": -0.5, "two": 1.0}, 10, "every part needs a count or a weight above 0"),
        ({"one": float("nan")}, 10, "every part needs a count or a weight above 0"),
        ({"one": 61}, None, "61 rows of 'one' requested, but it has 60"),
        ({"one": 0.5, "two": 0.5}, 100, "50 rows of 'two' requested, but it has 40"),
        ({"one": 0.5, "two": 0.5}, 1, "no row of 'two' in a total of 1"),
        ({"one": 5}, 10, "total=10 needs weights"),
        ({"one": 0.5, "two": 0.5}, 20.0, "total=20.0: give a whole number"),
        ({"one": 0.5, "two": 1e-9}, None, "no row of 'two' in a total of 60: give it a larger"),
    ],
)
def test_impossible_mixtures_are_refused(
    parts: dict[str, float], total: int | None, message: str
) -> None:
    sets = {name: SETS[name] for name in parts}
    with pytest.raises(ValueError, match=message):
        mix_datasets(parts, datasets=sets, total=total, test=None)


def test_a_name_that_is_nothing_and_rows_of_another_schema_are_named() -> None:
    with pytest.raises(ValueError, match="datasets has 'two', which is not among parts"):
        mix_datasets({"one": 5}, datasets={"one": SETS["one"], "two": SETS["two"]}, test=None)
    with pytest.raises(ValueError, match="did you mean 'mathqa'"):
        mix_datasets({"mathq": 5}, test=None)
    with pytest.raises(
        ValueError, match=r"'one' is not in the schema of load_problems: \{'question'"
    ):
        mix_datasets(
            {"one": 1}, datasets={"one": Dataset.from_dict({"question": ["?"]})}, test=None
        )
    other = SETS["one"].cast_column("label", Value("int32"))
    with pytest.raises(ValueError, match=r"schema of load_problems: .*'label': Value\('int32'\)"):
        mix_datasets({"one": 1}, datasets={"one": other}, test=None)
    with pytest.raises(ValueError, match="from a DatasetDict, give one split"):
        mix_datasets({"one": 1}, datasets={"one": DatasetDict(train=SETS["one"])}, test=None)  # type: ignore
    for test in (DatasetDict(test=SETS["two"]), [{"question": "?"}]):
        with pytest.raises(ValueError, match="mix: test must be a data set of load_problems"):
            mix_datasets({"one": 1}, datasets={"one": SETS["one"]}, test=test)  # type: ignore[arg-type]


def test_numbers_of_numpy_are_numbers_and_no_seed_is_refused() -> None:
    sets = {name: SETS[name] for name in ("one", "two")}
    assert (
        len(mix_datasets({"one": np.int64(3), "two": np.int64(2)}, datasets=sets, test=None)) == 5
    )
    assert len(mix_datasets({"one": np.float64(0.5), "two": 0.5}, datasets=sets, test=None)) == 80
    with pytest.raises(ValueError, match="seed=None: give a whole number"):
        mix_datasets({"one": 3}, datasets={"one": SETS["one"]}, test=None, seed=None)  # type: ignore


LARGE = """
import os, sys
from datasets import Dataset, DatasetDict, Value
from mathsft.data.mixtures import mix_datasets
from mathsft.data.problems import FEATURES, read_problems

def rows():
    for n in range(30_000):
        yield {"question": f"{sys.argv[2]} {n} ?", "solution": "word " * 2_000, "answer": "1",
               "choices": [], "label": -1, "source": "large"}

def anonymous():  # memory of this process that is not a mapped file
    return next(int(line.split()[1]) for line in open("/proc/self/status") if "RssAnon" in line)

if sys.argv[2] == "write":
    Dataset.from_generator(rows, features=FEATURES, cache_dir=sys.argv[1]).save_to_disk(
        sys.argv[1] + "/large")
else:
    small = read_problems("tiny-gsm", limit=200)[0]
    before = anonymous()
    large = Dataset.load_from_disk(sys.argv[1] + "/large")
    sets = {"large": large, "small": small.select(range(150))}
    mixture = mix_datasets({"large": 20_000, "small": 100}, datasets=sets,
                  test=small.select(range(150, 200)))
    some = mixture[7]
    assert len(mixture) == 20_100
    print(anonymous() - before, large.dataset_size or large.data.nbytes)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")
def test_a_data_set_on_disk_is_mixed_without_being_loaded(tmp_path: Path) -> None:
    def python(what: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", LARGE, str(tmp_path), what], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    python("write")
    written = sorted((tmp_path / "large").iterdir())
    kilobytes, size = map(int, python("mix").split()[-2:])
    assert size > 280e6
    assert sorted((tmp_path / "large").iterdir()) == written  # and nothing is left in its folder
    assert kilobytes < 60e3, f"{kilobytes} kB for a data set of {size / 1e3:.0f} kB"


# --- equal steps --------------------------------------------------------------------------


def test_the_plan_lays_steps_passes_and_sources_side_by_side() -> None:
    sets = {name: SETS[name] for name in ("one", "two")}
    alone = mix_datasets({"one": 20}, datasets={"one": SETS["one"]}, test=None)
    both = mix_datasets({"one": 20, "two": 20}, datasets=sets, test=None)
    plan = training_plan(
        {"alone": alone, "both": both}, max_steps=10, per_device_train_batch_size=4
    )
    same = {"steps": 10, "batch": 4, "short steps": 0, "rows seen": 40}
    assert plan.to_dict("index") == {
        "alone": {"rows": 20, **same, "passes": 2.0, "from one": 40, "from two": 0},
        "both": {"rows": 40, **same, "passes": 1.0, "from one": 20, "from two": 20},
    }


@pytest.mark.parametrize(
    ("count", "batch", "accumulation", "steps"),
    [(20, 4, 2, 10), (15, 8, 1, 10), (40, 4, 2, 12), (60, 8, 4, 7), (33, 3, 4, 9)],
)
def test_the_plan_is_what_transformers_trains(
    tmp_path: Path, count: int, batch: int, accumulation: int, steps: int
) -> None:
    """Count the rows that pass through a model of one weight."""
    seen: list[int] = []

    class Counting(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(()))

        def forward(self, row: torch.Tensor, **_: Any) -> dict[str, torch.Tensor]:
            seen.append(len(row))
            return {"loss": self.weight * row.float().mean()}

    mixture = mix_datasets({"one": count}, datasets={"one": SETS["one"]}, test=None)
    shape = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulation}
    settings = TrainingArguments(
        str(tmp_path), max_steps=steps, dataloader_drop_last=True, use_cpu=True, report_to="none",
        save_strategy="no", logging_strategy="no", disable_tqdm=True, **shape,
    )  # fmt: skip
    rows = [{"row": n} for n in range(len(mixture))]
    steps_end: list[int] = []

    class Snapshot(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            steps_end.append(sum(seen))

    trainer = Trainer(Counting(), settings, train_dataset=rows, callbacks=[Snapshot()])  # type: ignore
    trainer.train()
    sizes = [end - begin for begin, end in pairwise([0, *steps_end])]
    (plan,) = training_plan({"one": mixture}, max_steps=steps, **shape).to_dict("records")
    assert plan["rows seen"] == sum(seen)
    assert plan["short steps"] == sum(size < plan["batch"] for size in sizes)
    assert len(sizes) == plan["steps"]


def test_a_plan_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="0 mixtures"):
        training_plan({}, max_steps=10, per_device_train_batch_size=4)
    with pytest.raises(ValueError, match="'one' has 60 rows, fewer than a batch of 64"):
        training_plan({"one": SETS["one"]}, max_steps=1, per_device_train_batch_size=64)


@pytest.mark.slow
def test_real_rows_mix_by_count(data_dir: Path) -> None:
    gsm8k = read_problems(data_dir / "gsm8k" / "train.jsonl")[0]
    mathqa = read_problems(data_dir / "mathqa" / "dev.json", reading="clean")[0]
    test = mathqa.select(range(1000))
    # Five of the others ask a question of the test; in three the punctuation at the end differs.
    others = without_test_rows(mathqa.select(range(1000, len(mathqa))), test)
    assert len(others) == len(mathqa) - 1000 - 5
    mixture = mix_datasets(
        {"mathqa": 1500, "gsm8k": 1500},
        datasets={"mathqa": others, "gsm8k": gsm8k},
        test=test,
    )
    assert Counter(mixture["source"]) == {"dev.json": 1500, "train.jsonl": 1500}
