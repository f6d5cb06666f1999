"""Mixtures of conversations by weights: Python, command line, and the check against a test."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from chat_rows import chat
from datasets import Dataset

from mathsft import cli
from mathsft.data.deduplication import deduplicate
from mathsft.data.mixtures import mix_datasets
from mathsft.data.problems import load_problems
from mathsft.data.questions import question_key

pytestmark = pytest.mark.same_everywhere

SIZES = {"sums": 60, "stories": 40, "tools": 30}
WEIGHTS = {"sums": 0.5, "stories": 0.3, "tools": 0.2}


@pytest.fixture
def sources(tmp_path: Path) -> dict[str, Path]:
    """Three files of conversations: with two questions, with a system turn, with a tool."""
    tool = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
    rows: dict[str, list[dict[str, Any]]] = {
        "sums": [chat(f"What is {n} + 2?", f"{n + 2}", "Sure?", "Yes.") for n in range(60)],
        "stories": [chat(f"Tell me of {n} pens.", "…", system="Be short.") for n in range(40)],
        "tools": [{**chat(f"Add {n} and 4.", f"{n + 4}"), "tools": [tool]} for n in range(30)],
    }
    for name, some in rows.items():
        lines = "".join(json.dumps(row) + "\n" for row in some)
        (tmp_path / f"{name}.jsonl").write_text(lines)
    return {name: tmp_path / f"{name}.jsonl" for name in rows}


def asked(rows: Dataset) -> list[str]:
    return [row["messages"][-2]["content"] for row in rows]


def test_each_source_gives_its_weight_of_the_rows(sources: dict[str, Path]) -> None:
    given = {name: load_problems(file) for name, file in sources.items()}
    mixed = mix_datasets(WEIGHTS, datasets=given, test=None, total=100)
    assert Counter(mixed["source"]) == {
        "sums.jsonl": 50, "stories.jsonl": 30, "tools.jsonl": 20
    }  # fmt: skip
    # Without a total: as many rows as the weights allow.
    most = mix_datasets(WEIGHTS, datasets=given, test=None)
    assert Counter(most["source"]).most_common() == [
        ("sums.jsonl", 60), ("stories.jsonl", 36), ("tools.jsonl", 24)
    ]  # fmt: skip
    assert asked(mix_datasets(WEIGHTS, datasets=given, test=None)) == asked(most)
    assert asked(mix_datasets(WEIGHTS, datasets=given, test=None, seed=1)) != asked(most)


def test_conversations_pass_a_mixture_unchanged(sources: dict[str, Path]) -> None:
    given = {name: load_problems(file) for name, file in sources.items()}
    mixed = mix_datasets(WEIGHTS, datasets=given, test=None)
    before = {
        json.dumps([{k: v for k, v in turn.items() if v is not None} for turn in row["messages"]])
        for rows in given.values()
        for row in rows
    }
    for row in mixed:
        turns = [{k: v for k, v in turn.items() if v is not None} for turn in row["messages"]]
        assert json.dumps(turns) in before
        assert bool(row["tools"]) == (row["source"] == "tools.jsonl")


def test_a_conversation_that_asks_a_test_question_is_refused(sources: dict[str, Path]) -> None:
    given = {name: load_problems(file) for name, file in sources.items()}
    test = Dataset.from_list([chat("tell me of 7 PENS", "…")])
    with pytest.raises(ValueError, match=r"1 of 120 rows ask a question of the test.*stories"):
        mix_datasets(WEIGHTS, datasets=given, test=test)


def test_the_command_mixes_cleaned_conversations(
    sources: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    twice = sources["stories"].read_text() * 2
    sources["stories"].write_text(twice)
    clean, out = tmp_path / "clean.jsonl", tmp_path / "mixed.jsonl"
    line = ["deduplicate", "--source", str(sources["stories"]), "--file", str(clean)]
    cli.main([*line, "--method", "exact"])
    config = tmp_path / "mixture.yaml"
    config.write_text(
        "mix:\n  parts: {sums: 0.5, stories: 0.3, tools: 0.2}\n  total: 100\n  datasets:\n"
        f"    sums: {{source: {sources['sums']}}}\n"
        f"    stories: {{source: {clean}}}\n"
        f"    tools: {{source: {sources['tools']}}}\n"
    )
    cli.main(["mix", "--config", str(config), "--file", str(out)])
    printed = capsys.readouterr().out
    assert "sums 50 (50.0%), stories 30 (30.0%), tools 20 (20.0%)" in printed
    rows = load_problems(out)
    assert Counter(rows["source"]) == {"sums.jsonl": 50, "clean.jsonl": 30, "tools.jsonl": 20}
    assert len({question_key(text) for text in asked(rows)}) == 51  # "Sure?" ends every sum
    assert len(deduplicate(rows, method="exact").rows) == 100
