"""``load_problems``: every source in one schema, every drop counted, every broken file named."""

import json
import random
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from problem_rows import CHAT, GSM, MATHQA, OWN, jsonl

from mathsft.data.problems import FEATURES, load_problems, read_problems
from mathsft.data.questions import QuestionFinder, strip_chat


def array(path: Path, *rows: Any) -> Path:
    path.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    return path


def parquet(path: Path, *rows: Any) -> Path:
    pq.write_table(pa.Table.from_pylist(list(rows)), path)
    return path


WRITERS = {".jsonl": jsonl, ".json": array, ".parquet": parquet}


@pytest.mark.parametrize("suffix", WRITERS)
@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (GSM, ("What is 2 + 3?", "2 + 3 = 5.", "5", [], -1, "rows")),
        (
            CHAT,
            (
                "Ann buys 2 pens at $3 and pays cash. What does she pay?",
                "She pays 2 * 3 = $6.",
                "6",
                [],
                -1,
                "rows",
            ),
        ),
        (
            MATHQA,
            (
                "what is 2 + 3 ?",
                "2 + 3 = 5 . answer : b",
                "5",
                ["4", "5", "1 / 2", "$ 7", "12 hours"],
                1,
                "rows",
            ),
        ),
        (OWN, ("What is 2 + 3?", "It is 5.", "5", ["4", "5"], 1, "mine")),
    ],
    ids=["gsm8k", "instruction", "mathqa", "own"],
)
def test_every_schema_in_every_format_gives_the_one_schema(
    tmp_path: Path, suffix: str, row: dict[str, Any], expected: tuple[Any, ...]
) -> None:
    path = WRITERS[suffix](tmp_path / f"rows{suffix}", row)
    problems, dropped = read_problems(path, test_questions=[], train_questions=[])
    assert problems.features == FEATURES
    assert not dropped
    wanted = dict(zip(FEATURES, expected, strict=True))
    wanted["source"] = wanted["source"].replace("rows", path.name)
    assert problems.to_list() == [wanted]


def test_saved_problems_load_as_they_were(tmp_path: Path) -> None:
    problems = load_problems("tiny-mathqa", limit=20)
    problems.to_json(tmp_path / "saved.jsonl")
    problems.to_parquet(tmp_path / "saved.parquet")
    assert load_problems(tmp_path / "saved.jsonl").to_list() == problems.to_list()
    assert load_problems(str(tmp_path / "saved.parquet")).to_list() == problems.to_list()


# --- real rows ---------------------------------------------------------------------------


def test_all_real_gsm8k_rows_are_read(data_dir: Path) -> None:
    problems, dropped = read_problems(data_dir / "gsm8k" / "train.jsonl")
    assert len(problems) == 7473
    assert not dropped
    text = "\n".join(problems["solution"])
    assert "<<" not in text
    assert "####" not in text
    assert all(problems["answer"])


def test_the_official_reading_of_mathqa_is_the_harness_s_on_every_real_row(data_dir: Path) -> None:
    utils = pytest.importorskip("lm_eval.tasks.mathqa.utils")
    rows = json.loads((data_dir / "mathqa" / "dev.json").read_text(encoding="utf-8"))
    problems, dropped = read_problems(data_dir / "mathqa" / "dev.json")
    assert len(problems) == len(rows) == 4475
    assert not dropped
    assert problems["choices"] == [utils.doc_to_choice(row) for row in rows]
    # The target expression of the harness's mathqa.yaml.
    assert problems["label"] == [["a", "b", "c", "d", "e"].index(row["correct"]) for row in rows]
    assert problems["question"] == [row["Problem"].strip() for row in rows]


@pytest.mark.slow
def test_real_questions_are_found_inside_chat_in_seconds(data_dir: Path) -> None:
    questions = read_problems(data_dir / "gsm8k" / "train.jsonl")[0]["question"]
    wrapped = [
        f"This math problem has got me stumped: {q} Can you show me the way?" for q in questions
    ]
    start = time.perf_counter()
    finder = QuestionFinder(questions)
    assert [finder.find(text.replace("'", "\u2019").upper()) for text in wrapped] == list(questions)
    assert time.perf_counter() - start < 30


@pytest.mark.same_everywhere
def test_the_wording_rule_spares_bare_questions_and_strips_the_known_chat(data_dir: Path) -> None:
    questions = read_problems(data_dir / "gsm8k" / "train.jsonl")[0]["question"]
    assert sum(strip_chat(question) != question for question in questions) <= 3
    chat = "This math problem has got me stumped: {} Can you show me the way?"
    wrong = sum(strip_chat(chat.format(question)) != strip_chat(question) for question in questions)
    assert wrong <= 20


# --- instructions ------------------------------------------------------------------------


def chat_rows(tmp_path: Path, *instructions: str) -> Path:
    rows = [CHAT | {"INSTRUCTION": instruction} for instruction in instructions]
    return jsonl(tmp_path / "chat.jsonl", *rows)


def test_test_questions_are_dropped_however_they_are_wrapped_spelled_or_slightly_changed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hidden = (
        "Carl's dog eats 2 bones on every day of the week but Sunday, on which it eats one more. "
        "How many bones does Carl's dog eat in the whole of a week with 7 days?"
    )
    shouted = hidden.replace("'", "\u2019").upper()
    path = chat_rows(
        tmp_path,
        "Ann has 5 pens and buys 3 more. How many?",
        f"Whoa:   {shouted}?! Over to you",
        f"Please help: {hidden.replace('the whole of', 'all of')}",
    )
    problems = load_problems(path, test_questions=[hidden], train_questions=[])
    assert problems["question"] == ["Ann has 5 pens and buys 3 more. How many?"]
    said = capsys.readouterr().out
    assert "3 rows read, 1 kept" in said
    assert "1 GSM8K test question (row 2)" in said
    assert "1 nearly a GSM8K test question (row 3)" in said


def test_known_questions_are_restored_exactly_and_the_longest_wins(tmp_path: Path) -> None:
    short = "Ann has 5 red pens. How many?"
    long = "In 2020, Ann has 5 red pens. How many? And “how many” does Ben have?"
    path = chat_rows(tmp_path, f"hm {long.replace('“', '').replace('”', '')} bye", f"so: {short}")
    test_file = jsonl(tmp_path / "test.jsonl", GSM)
    train_file = array(tmp_path / "t.json", GSM | {"question": short}, GSM | {"question": long})
    problems, _ = read_problems(path, test_questions=test_file, train_questions=train_file)
    assert problems["question"] == [long, short]


def test_without_the_hub_the_error_names_test_questions(tmp_path: Path) -> None:
    with pytest.raises(ConnectionError, match="Give test_questions="):
        load_problems(chat_rows(tmp_path, "Ann has 5 pens. How many?"))


# --- split, limit, seed, generated sources -----------------------------------------------


@pytest.mark.parametrize("source", ["tiny-gsm", "tiny-mathqa"])
def test_generated_sources_need_no_hub_and_are_whole(source: str) -> None:
    for split in ("train", "validation", "test"):
        problems, dropped = read_problems(source, split=split, limit=30)
        assert len(problems) == 30
        assert not dropped
        assert set(problems["source"]) == {source}


def test_seed_shuffles_before_limit_and_no_seed_keeps_the_order(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "n.jsonl", *[GSM | {"question": f"Q{n}?"} for n in range(50)])
    random.seed(7)
    state = random.getstate()
    every = load_problems(path)["question"]
    assert every[:] == [f"Q{n}?" for n in range(50)]
    assert load_problems(path, limit=5)["question"][:] == every[:5]
    shuffled = load_problems(path, seed=3)["question"][:]
    assert shuffled != every[:]
    assert sorted(shuffled) == sorted(every)
    assert load_problems(path, seed=3, limit=5)["question"][:] == shuffled[:5]
    assert load_problems(path, seed=4)["question"][:] != shuffled
    assert random.getstate() == state


@pytest.mark.parametrize(
    ("source", "split", "message"),
    [
        ("tiny-gsm", "dev", "'dev' is unknown; there are train, validation, test"),
        ("gsm8k", "validation", "'validation' is unknown; there are train, test"),
        ("grade-school-math", "test", "'test' is unknown; there are train"),
        ("gms8k", "train", "unknown source 'gms8k': did you mean 'gsm8k'?"),
        ("openai/gsm8k", "train", "did you mean 'gsm8k'?"),
        ("qqq", "train", "Known: gsm8k, mathqa, grade-school-math, tiny-gsm, tiny-mathqa"),
        (
            "rows.txt",
            "train",
            "rows.txt: cannot read .txt; give one of .json, .jsonl, .parquet, .csv",
        ),
        ("rows.json", "test", "rows.json: split 'test' is unknown; a file is one split"),
    ],
)
def test_unknown_sources_and_splits_name_what_exists(source: str, split: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        load_problems(source, split=split)


def test_limit_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="limit=0: give 1 or more"):
        load_problems("tiny-gsm", limit=0)


def test_the_data_part_imports_no_torch() -> None:
    code = (
        "import sys; from mathsft.data.problems import load_problems; "
        "load_problems('tiny-mathqa', limit=3); load_problems('tiny-gsm', limit=3); "
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
