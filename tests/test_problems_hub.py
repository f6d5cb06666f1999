"""Loading from the hub as a user does it: a new process, an empty cache, a hub that answers.

The served rows are made up, in the schemas of the real data sets.
"""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hub import LocalHub, local_hub  # noqa: F401  (local_hub is a fixture)
from problem_rows import MATHQA

TRAIN = [
    ("Ann has 1,000 red beads and finds 200 more. How many beads has she?", 1200),
    ("A jug holds $3 worth of milk. What do 4 such jugs hold, in dollars?", 12),
]
TEST = [("Carl's dog eats 2 bones a day. How many bones does it eat in a week?", 14)]


def gsm8k_rows(problems: list[tuple[str, int]]) -> list[dict[str, str]]:
    return [
        {"question": q, "answer": f"It is <<{n}+0={n}>>{n} in all.\n#### {n:,}"}
        for q, n in problems
    ]


def instruction_rows() -> list[dict[str, str]]:
    wrappings = [
        "This math problem has got me stumped: {} Can you show me the way?",
        "Oh well, whatever, it says {}   I give up!",
        "I'm stuck on this math question: {} Please help me.",
    ]
    return [
        {"INSTRUCTION": w.format(q), "RESPONSE": f"It is {n} in all.", "SOURCE": "gsm"}
        for w, (q, n) in zip(wrappings, TRAIN + TEST, strict=True)
    ]


def write(rows: list[dict[str, str]], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


@pytest.fixture
def hub(local_hub: LocalHub) -> LocalHub:  # noqa: F811
    gsm8k = local_hub.folder("datasets", "openai/gsm8k")
    write(gsm8k_rows(TRAIN), gsm8k / "main" / "train-00000-of-00001.parquet")
    write(gsm8k_rows(TEST), gsm8k / "main" / "test-00000-of-00001.parquet")
    (gsm8k / "README.md").write_text(
        "---\nconfigs:\n- config_name: main\n  data_files:\n  - split: train\n"
        "    path: main/train-*\n  - split: test\n    path: main/test-*\n---\n"
    )
    chat = local_hub.folder("datasets", "qwedsacf/grade-school-math-instructions")
    write(instruction_rows(), chat / "data" / "train-00000-of-00001.parquet")
    return local_hub


def load(hub: LocalHub, tmp_path: Path, call: str) -> tuple[list[dict], str]:
    """Return the rows of ``load_problems(call)`` in a new process, and what it printed."""
    done = hub.python(
        "import json\nfrom mathsft.data.problems import load_problems\n"
        f"rows = load_problems({call}).to_list()\nprint(json.dumps(rows))",
        home=tmp_path / "home",
    )
    assert done.returncode == 0, done.stderr
    *said, rows = done.stdout.strip().splitlines()
    return json.loads(rows), "\n".join(said)


def test_gsm8k_comes_from_the_hub(hub: LocalHub, tmp_path: Path) -> None:
    rows, said = load(hub, tmp_path, "'gsm8k', split='test'")
    assert said == "gsm8k/test: 1 rows read, 1 kept"
    assert rows == [
        {
            "question": TEST[0][0],
            "solution": "It is 14 in all.",
            "answer": "14",
            "choices": [],
            "label": -1,
            "source": "gsm8k",
        }
    ]


@pytest.mark.slow
def test_grade_school_math_is_bare_and_without_test_questions(
    hub: LocalHub, tmp_path: Path
) -> None:
    rows, said = load(hub, tmp_path, "'grade-school-math'")
    assert [row["question"] for row in rows] == [question for question, _ in TRAIN]
    assert [row["answer"] for row in rows] == ["1200", "12"]
    assert "3 rows read, 2 kept; dropped 1: GSM8K test question (row 3)" in said
    assert "chat stripped by GSM8K's own question: 2" in said


def test_without_the_train_questions_the_wording_decides_and_a_line_says_so(
    hub: LocalHub, tmp_path: Path
) -> None:
    rows, said = load(hub, tmp_path, "'grade-school-math', train_questions=[]")
    assert [row["question"] for row in rows] == [TRAIN[0][0], instruction_rows()[1]["INSTRUCTION"]]
    assert "chat not recognised: 1, chat stripped by its wording: 1" in said


@pytest.mark.slow
def test_a_data_set_the_hub_does_not_have_is_one_clear_error(
    local_hub: LocalHub,  # noqa: F811
    tmp_path: Path,
) -> None:
    chat = local_hub.folder("datasets", "qwedsacf/grade-school-math-instructions")
    write(instruction_rows(), chat / "data" / "train-00000-of-00001.parquet")
    done = local_hub.python(
        "from mathsft.data.problems import load_problems\n"
        "for source in ('gsm8k', 'grade-school-math'):\n"
        "    try:\n        load_problems(source)\n"
        "    except ConnectionError as error:\n        print(error)\n",
        home=tmp_path / "home",
    )
    assert done.returncode == 0, done.stderr
    missing, untold = done.stdout.strip().splitlines()
    assert missing.startswith("openai/gsm8k (split train) could not be loaded from the hub")
    assert "tiny-gsm" in missing
    assert "Give test_questions=" in untold


@pytest.mark.slow
def test_mathqa_comes_from_the_hub_in_both_readings(hub: LocalHub, tmp_path: Path) -> None:
    mathqa = hub.folder("datasets", "regisss/math_qa")
    for split in ("train", "validation", "test"):
        row = MATHQA | {"Problem": f"what is 2 + 3 ? ( {split} )"}
        listed = row | {"options": "['a ) 4', 'b ) 5', 'c ) 6', 'd ) 7', 'e ) 8']"}
        write([row, listed], mathqa / "data" / f"{split}-00000-of-00001.parquet")
    rows, said = load(hub, tmp_path, "'mathqa', split='test'")
    assert said == "mathqa/test: 2 rows read, 2 kept"
    assert [row["source"] for row in rows] == ["mathqa", "mathqa"]
    assert [row["question"] for row in rows] == ["what is 2 + 3 ? ( test )"] * 2
    assert rows[1]["choices"] == ["4'", "5'", "6'", "7'", "8']"]  # as the harness reads them
    rows, said = load(hub, tmp_path, "'mathqa', reading='clean'")
    assert rows[1]["choices"] == ["4", "5", "6", "7", "8"]
    assert "repaired (list written as text): 1" in said
