"""Deduplication: which rows are found, in any order and any blocks, and what is done with them."""

import csv
import json
import random
import tracemalloc
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from chat_rows import chat
from datasets import Dataset, IterableDataset
from hypothesis import given, settings
from hypothesis import strategies as st

from mathsft import cli
from mathsft.data import embedding_duplicates, near_duplicates
from mathsft.data.deduplication import Method, deduplicate
from mathsft.data.local_files import read_rows, write_rows
from mathsft.data.problems import read_problems
from mathsft.data.questions import question_key
from mathsft.data.synthetic.grade_school import tiny_gsm_rows

METHODS: tuple[Method, ...] = get_args(Method)


def asking(*questions: str) -> list[dict[str, Any]]:
    return [{"question": question} for question in questions]


def with_copies(count: int, *, seed: int = 0) -> list[dict[str, Any]]:
    """Generated problems, each fifth with a copy that is written in another way, shuffled."""
    rows: list[dict[str, Any]] = list(tiny_gsm_rows("train", count))
    copies = [{**row, "question": row["question"].upper() + " Why?"} for row in rows[::5]]
    rows += copies
    random.Random(seed).shuffle(rows)
    return rows


def word(number: int) -> str:
    """A word of letters alone: digits would be words of their own."""
    return "".join("abcdefghij"[int(digit)] for digit in str(number))


def similarity(one: str, other: str, n: int) -> float:
    """The plain definition: common runs of n words among all runs of n words."""
    sets = []
    for text in (one, other):
        words = question_key(text).split()
        runs = {tuple(words[at : at + n]) for at in range(len(words) - n + 1)} or {tuple(words)}
        sets.append(runs)
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


@pytest.mark.parametrize("method", METHODS)
def test_case_and_spacing_make_no_other_row_but_numbers_and_signs_do(method: Method) -> None:
    rows = asking("What is 3 + 2?", "what  is 3 + 2 ?", "What is 3 - 2?", "What is 7 + 5?")
    found = deduplicate(rows, method=method)
    assert found.removed == {1: (0, pytest.approx(1.0))}
    assert found.rows == [rows[0], rows[2], rows[3]]
    assert found.groups == {0: [1]}


words = st.lists(st.sampled_from("abcd"), max_size=10).map(" ".join)


@settings(max_examples=40, deadline=None)
@given(st.lists(words, min_size=1, max_size=12), st.integers(1, 3), st.sampled_from([0.5, 0.8, 1]))
def test_a_row_is_left_out_only_for_a_kept_row_that_is_as_similar_as_it_says(
    texts: list[str], n: int, threshold: float
) -> None:
    found = deduplicate(asking(*texts), n=n, threshold=threshold)
    for row, (kept, score) in found.removed.items():
        assert kept < row
        assert kept not in found.removed
        assert score == pytest.approx(similarity(texts[row], texts[kept], n))
        assert score >= threshold
    kept_texts = [question_key(row["question"]) for row in found.rows if row["question"]]
    assert len(set(kept_texts)) == len(kept_texts)  # MinHash never misses equal texts
    assert found.not_compared.total() == texts.count("")


@pytest.mark.parametrize("prefer", ["first", "longest", "random"])
@pytest.mark.parametrize("method", METHODS)
def test_the_result_is_the_same_for_every_size_of_the_blocks(method: Method, prefer: Any) -> None:
    rows = with_copies(60)
    one, other, whole = (
        deduplicate(rows, method=method, prefer=prefer, batch_size=size) for size in (1, 7, 1000)
    )
    assert one.removed == other.removed == whole.removed
    # "exact" misses the copies, which have a word more.
    assert len(whole.removed) >= 12 or method == "exact"
    stored = deduplicate(Dataset.from_list(rows), method=method, prefer=prefer, batch_size=7)
    assert stored.removed == whole.removed
    assert stored.rows[:] == Dataset.from_list(whole.rows)[:]


@pytest.mark.parametrize("method", METHODS)
def test_a_duplicate_in_another_block_is_found(method: Method) -> None:
    rows = asking("Ann has 3 pens. How many?", *(f"Is {n} odd?" for n in range(9)))
    found = deduplicate([*rows, *rows], method=method, batch_size=10)
    assert len(found.rows) == len(rows)


def test_what_is_kept_is_the_first_the_longest_or_one_that_the_seed_draws() -> None:
    text = " ".join(map(word, range(40)))
    rows = asking(text, f"{text} and more", f"{text} and", *(f"Other {n}?" for n in range(3)))
    assert deduplicate(rows).groups == {0: [1, 2]}
    assert deduplicate(rows, prefer="longest").groups == {1: [0, 2]}
    drawn = [deduplicate(rows, prefer="random", seed=seed).groups for seed in range(12)]
    assert {kept for groups in drawn for kept in groups} == {0, 1, 2}
    assert drawn[3] == deduplicate(rows, prefer="random", seed=3).groups


def test_by_question_one_answer_is_kept_and_by_all_every_other_answer() -> None:
    asks = "Ann has 3 pens and buys 4 more. How many pens does she have?"
    rows = [chat(asks, "She has 7."), chat(asks, "3 + 4 = 7"), chat(asks, "she has 7")]
    assert len(deduplicate(rows, method="exact").rows) == 1
    assert deduplicate(rows, method="exact", by="all").groups == {0: [2]}


KINDS: dict[str, dict[str, Any]] = {
    "problem": {"question": "2 + 3?", "solution": "", "answer": "5", "choices": ["4", "5"],
                "label": 1},
    "gsm8k": {"question": "2 + 3?", "answer": "2 + 3 = 5\n#### 5"},
    "mathqa": {"Problem": "2 + 3 ?", "Rationale": "", "correct": "b",
               "options": "a ) 4 , b ) 5 , c ) 6 , d ) 7 , e ) 8"},
    "arc": {"question": "2 + 3?", "choices": {"text": ["4", "5"], "label": ["A", "B"]},
            "answerKey": "B"},
    "chat": chat("2 + 3?", "5", "Sure?", "Yes."),
    "sharegpt": {"conversations": [{"from": "human", "value": "2 + 3?"},
                                   {"from": "gpt", "value": "5"}]},
    "alpaca": {"instruction": "Add.", "input": "2 + 3", "output": "5"},
    "prompt": {"prompt": "2 + 3 =", "completion": " 5"},
    "pair": {"prompt": "2 + 3 =", "chosen": " 5", "rejected": " 6"},
    "implicit pair": {"chosen": chat("2 + 3?", "5")["messages"],
                      "rejected": chat("2 + 3?", "6")["messages"]},
    "unpaired": {"prompt": "2 + 3 =", "completion": " 6", "label": False},
    "group": {"prompt": "2 + 3 =", "completions": [" 5", " 6"], "rewards": [1, 0]},
    "text": {"text": "2 + 3 = 5"},
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("by", ["question", "all"])
def test_rows_of_every_kind_are_compared(kind: str, by: Any) -> None:
    row = KINDS[kind]
    found = deduplicate([{**row, "id": 1}, {**row, "id": 2}, {"text": "other words"}], by=by)
    assert found.rows == [{**row, "id": 1}, {"text": "other words"}]
    assert not found.not_compared


@pytest.mark.parametrize(
    ("row", "changes"),
    [
        (KINDS["unpaired"], {"label": True}),
        (KINDS["pair"], {"chosen": " 6", "rejected": " 5"}),
        (KINDS["group"], {"rewards": [0, 1]}),
        (KINDS["problem"], {"label": 0}),
        (KINDS["chat"], {"messages": chat("2 + 3?", "6", "Sure?", "Yes.")["messages"]}),
    ],
    ids=["label", "pair", "rewards", "choice", "answer"],
)
@pytest.mark.parametrize("method", METHODS)
def test_rows_that_judge_the_same_text_in_another_way_are_no_duplicates(
    method: Method, row: dict[str, Any], changes: dict[str, Any]
) -> None:
    assert len(deduplicate([row, {**row, **changes}], method=method, by="all").rows) == 2


def test_a_mixture_with_null_columns_is_compared_kind_by_kind() -> None:
    lines = [KINDS["chat"], KINDS["problem"], KINDS["chat"], KINDS["pair"], KINDS["problem"]]
    columns = sorted({name for line in lines for name in line})
    rows = [{name: line.get(name) for name in columns} for line in lines]
    for by in ("question", "all"):
        assert deduplicate(rows, by=by).groups == {0: [2], 1: [4]}


@pytest.mark.parametrize("method", METHODS)
def test_odd_rows_are_kept_and_counted(method: Method, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"text": ""}, {"text": " "}, {"text": "🙂🙂"}, {"text": "🙂 🙂"}, {"text": "\ud800 x"},
            chat("What?", ""), chat("What?", ""), {"text": "x " * 30_000}]  # fmt: skip
    found = deduplicate(rows, method=method)
    assert found.removed == {3: (2, pytest.approx(1.0))}
    assert found.not_compared == {"without a word": 2, "with an empty assistant turn": 2}
    assert "kept without being compared: 2 without a word, 2 with an" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("rows", "how", "message"),
    [
        ([], {}, "there are no rows"),
        ("rows.jsonl", {}, "Load them"),
        ({"question": ["2 + 3?"]}, {}, "Dataset.from_dict"),
        ([3], {}, "row 0: expected a row"),
        (
            [{"text": "x"}, {"question": 3}],
            {},
            "row 1, column 'question': expected text, found int",
        ),
        ([{"text": 3}], {}, "row 0: a row of no known kind"),
        ([{"text": float("nan")}], {}, "row 0: a row of no known kind"),
        ([chat("x", "y"), {"messages": [3]}], {}, r"row 1, messages\[0\]"),
        ([{"text": "x"}], {"method": "fuzzy"}, "unknown method 'fuzzy'"),
        ([{"text": "x"}], {"prefer": "last"}, "unknown prefer 'last'"),
        ([{"text": "x"}], {"by": "answer"}, "unknown by 'answer'"),
        ([{"text": "x"}], {"method": "exact", "threshold": 0.5}, "has no threshold"),
        ([{"text": "x"}], {"threshold": 1.5}, "threshold=1.5"),
        ([{"text": "x"}], {"n": 0}, "n=0"),
        ([{"text": "x"}], {"seed": -1}, "seed=-1"),
        ([{"text": "x"}], {"embed": len}, "embed is for method 'embedding'"),
        ([{"text": "x"}], {"method": "embedding", "embed": 3}, "give a function"),
        ([{"text": "x"}], {"report": "groups.txt"}, "ends with .jsonl or .csv"),
    ],
)
def test_what_cannot_be_compared_is_one_line(rows: Any, how: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        deduplicate(rows, **how)
    assert "\n" not in str(error.value)


def test_a_stream_is_refused() -> None:
    with pytest.raises(ValueError, match="a stream cannot be counted"):
        deduplicate(IterableDataset.from_generator(lambda: iter(asking("x"))))


def test_the_report_has_every_row_of_each_group(tmp_path: Path) -> None:
    text = "=HYPERLINK(1) " + " ".join(map(word, range(40)))
    rows = asking("Other?", text, f"{text} more", "other ?")
    found = deduplicate(rows, report=tmp_path / "groups.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "groups.jsonl").read_text().splitlines()]
    assert [(one["group"], one["row"], one["kept"]) for one in lines] == [
        (0, 0, True), (0, 3, False), (1, 1, True), (1, 2, False),
    ]  # fmt: skip
    assert lines[3]["similarity"] == round(found.removed[2][1], 4)
    with found.save(tmp_path / "groups.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [line["row"] for line in table] == ["0", "3", "1", "2"]
    assert table[2]["text"].startswith("'=HYPERLINK")  # no formula for a spreadsheet


@pytest.mark.parametrize("threshold", [0.5, 0.8, 0.95])
def test_minhash_finds_as_many_pairs_as_its_formula_says(threshold: float) -> None:
    """Pairs with exactly this similarity, one word being one shingle."""
    common, alone = {0.5: (20, 10), 0.8: (32, 4), 0.95: (38, 1)}[threshold]
    texts = []
    for pair in range(200):
        shared = [f"s{word(1000 * pair + n)}" for n in range(common)]
        for side in "ab":
            texts.append(
                " ".join([*shared, *(f"{side}{word(1000 * pair + n)}x" for n in range(alone))])
            )
    found = deduplicate(asking(*texts), n=1, threshold=threshold)
    count, each = near_duplicates.bands(threshold)
    expected = 1 - (1 - threshold**each) ** count
    assert expected >= 0.9
    error = 3 * (expected * (1 - expected) / 200) ** 0.5 + 0.003
    assert len(found.removed) / 200 == pytest.approx(expected, abs=error)
    assert all(kept == row - 1 for row, (kept, _) in found.removed.items())


def test_at_the_usual_threshold_the_bands_are_datatroves() -> None:
    from datatrove.pipeline.dedup.minhash import MinhashConfig

    usual = MinhashConfig()
    assert near_duplicates.bands(0.8) == (usual.num_buckets, usual.hashes_per_bucket)
    assert near_duplicates.bands(1.0) == (1, 112)
    products = [count * each for count, each in map(near_duplicates.bands, (0.1, 0.3, 0.6, 0.9))]
    assert max(products) <= 112


def test_a_signature_is_datatroves_and_a_long_text_needs_little_memory() -> None:
    from datatrove.pipeline.dedup.minhash import MinhashDedupSignature

    step = near_duplicates.signature_step(n=3, threshold=0.8)
    shingles = step.get_shingles(" ".join(map(word, range(40_000))))
    tracemalloc.start()
    ours = step.get_signature(shingles)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert ours == MinhashDedupSignature.get_signature(step, shingles)
    assert peak < 40_000 * 112 * 8 / 2  # bytes; less than the numbers of all shingles


def test_the_comparisons_grow_with_the_rows_and_not_with_their_square(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also among generated problems, which have much in common: few are compared in vain."""
    compared: list[int] = []
    real = np.intersect1d

    def counted(*sets: Any, **how: Any) -> Any:
        compared.append(1)
        return real(*sets, **how)

    monkeypatch.setattr(near_duplicates.np, "intersect1d", counted)
    for count in (200, 800):
        compared.clear()
        found = deduplicate(with_copies(count))
        assert count / 5 <= len(found.removed) <= count / 4
        assert count / 5 <= len(compared) <= count / 2  # of all pairs: 29,000 and 460,000


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 30), st.integers(1, 12))
def test_by_embedding_the_rows_are_those_of_a_plain_loop(seed: int, rows: int, block: int) -> None:
    vectors = embedding_duplicates.unit(np.random.default_rng(seed).normal(size=(rows, 3)))
    expected: dict[int, tuple[int, float]] = {}
    for row in range(rows):
        kept = [other for other in range(row) if other not in expected]
        scores = {other: float(np.dot(*vectors[[row, other]].astype(float))) for other in kept}
        best = max(scores, key=scores.__getitem__, default=None)
        if best is not None and scores[best] >= 0.9:
            expected[row] = (best, scores[best])
    found = embedding_duplicates.similar_rows(vectors, threshold=0.9, block=block)
    assert {row: kept for row, (kept, _) in found.items()} == {
        row: kept for row, (kept, _) in expected.items()
    }
    for row, (_, score) in found.items():
        assert score == pytest.approx(expected[row][1])


def letters(texts: Sequence[str]) -> Any:
    return [[text.count(letter) for letter in "abcdefgh"] for text in texts]


def test_an_own_function_gives_the_vectors() -> None:
    seen: list[int] = []

    def embed(texts: Sequence[str]) -> Any:
        seen.append(len(texts))
        return letters(texts)

    rows = asking("abc", "cab", "abd", "zzz", "zzz z")
    found = deduplicate(rows, method="embedding", embed=embed, batch_size=2)
    assert found.groups == {0: [1]}  # a vector of zeros is like no other
    assert seen == [2, 2, 1]


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda texts: [[1.0]], "one vector for each text"),
        (lambda texts: [1.0] * len(texts), "one vector for each text"),
        (lambda texts: [[float("nan")]] * len(texts), "not finite"),
        (lambda texts: [["x"]] * len(texts), "no array of numbers"),
        (lambda texts: [[1.0] * len(texts)] * len(texts), "several sizes"),
    ],
)
def test_vectors_that_are_no_vectors_are_one_line(made: Any, message: str) -> None:
    rows = asking("a", "b", "c")
    with pytest.raises(ValueError, match=message):
        deduplicate(rows, method="embedding", embed=made, batch_size=2)


def test_a_models_name_needs_sentence_transformers() -> None:
    pytest.importorskip("faiss")
    from importlib.util import find_spec

    if find_spec("sentence_transformers"):
        pytest.skip("it is installed")
    with pytest.raises(ImportError, match="pip install sentence-transformers"):
        deduplicate(asking("x"), method="embedding", embed="all-MiniLM-L6-v2")


def test_without_the_packages_a_line_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "mathsft.data.near_duplicates", None)
    with pytest.raises(ImportError, match=r'pip install "mathsft\[data\]"'):
        deduplicate(asking("x"), method="near")
    assert deduplicate(asking("x", "X"), method="exact").groups == {0: [1]}


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_the_command_keeps_all_columns_of_the_rows(
    suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"id": 7, **chat("2 + 3?", "5")}, {"id": 8, **chat("2 + 4?", "6")},
            {"id": 9, **chat("2  + 3 ?", "Five.")}]  # fmt: skip
    source, out = tmp_path / "chats.jsonl", tmp_path / f"out{suffix}"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    line = ["deduplicate", "--source", source, "--file", out, "--report", tmp_path / "groups.csv"]
    cli.main(list(map(str, line)))
    assert [row for _, row in read_rows(out)] == rows[:2]
    assert "3 rows read, 2 kept" in capsys.readouterr().out
    assert len((tmp_path / "groups.csv").read_text().splitlines()) == 3
    with pytest.raises(SystemExit, match="exists already"):
        cli.main(list(map(str, line)))
    before = source.read_bytes()
    new = tmp_path / "new.jsonl"
    for report in (source, new):  # the rows would be lost
        line = ["deduplicate", "--source", source, "--file", new, "--report", report]
        with pytest.raises(SystemExit, match="the rows are there"):
            cli.main(list(map(str, line)))
    assert source.read_bytes() == before
    assert not new.exists()


def test_values_that_a_file_cannot_hold_are_one_line(tmp_path: Path) -> None:
    for value in (date(2026, 1, 1), "\ud800"):
        with pytest.raises(ValueError, match="row 1 cannot be written as JSON"):
            write_rows([{"a": 1}, {"a": value}], tmp_path / "out.jsonl")
    with pytest.raises(ValueError, match=r"do not fit into one table.*write .jsonl"):
        write_rows([{"a": 1}, {"a": "x"}], tmp_path / "out.parquet")
    assert not list(tmp_path.iterdir())


def test_real_rows_hold_few_duplicates_and_these_are_alike(data_dir: Path) -> None:
    rows, _ = read_problems(data_dir / "gsm8k" / "train.jsonl", limit=400)
    loose, usual = (deduplicate(rows, threshold=limit) for limit in (0.4, 0.8))
    assert len(usual.removed) <= len(loose.removed) < 20
    for row, (kept, score) in loose.removed.items():
        assert score == similarity(rows[row]["question"], rows[kept]["question"], 3) >= 0.4
