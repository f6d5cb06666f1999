"""Training rows: tokenised once, kept on disk, the same from every kind of source."""

from pathlib import Path
from typing import Any

import pytest
from chat_rows import chat, sums, with_template
from datasets import Dataset

from mathsft.data.problems import load_problems, read_problems
from mathsft.models.loading import load_model
from mathsft.objectives.multiple_choice import MultipleChoice
from mathsft.objectives.sft import SFT
from mathsft.training.rows import training_rows
from mathsft.training.runs import rows_hash


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return with_template(load_model("tiny", device="cpu")[1])


@pytest.fixture
def on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Dataset:
    """1,200 conversations in a file; two of them cannot be used."""
    rows = [*sums(600), chat("What is ^ 2?", "It is 2."), *sums(598), chat("Hi", "y" * 4000)]
    Dataset.from_list(rows).to_json(tmp_path / "chats.jsonl")
    found: Any = Dataset.from_json(str(tmp_path / "chats.jsonl"), cache_dir=str(tmp_path / "cache"))
    assert found.cache_files
    return found


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of rows in each call that asks `SFT` to tokenise."""
    groups, found = SFT.groups, list[int]()

    def counting(self: SFT, rows: Any, *arguments: Any, **named: Any) -> Any:
        found.append(len(rows))
        return groups(self, rows, *arguments, **named)

    monkeypatch.setattr(SFT, "groups", counting)
    return found


@pytest.mark.parametrize("packing", [True, False])
def test_a_second_start_finds_the_rows_on_disk_and_says_the_same(
    on_disk: Dataset, tokenizer: Any, capsys: Any, packing: bool, asked: list[int]
) -> None:
    objective = SFT(packing=packing)
    first = training_rows(on_disk, tokenizer, objective, max_length=512)
    line = capsys.readouterr().out
    assert first.cache_files
    assert asked == [500, 500, 200]
    tokenizer(["padding", "and truncation"], padding=True, truncation=True, max_length=2)
    second = training_rows(on_disk, tokenizer, objective, max_length=512)
    assert len(asked) == 3
    assert capsys.readouterr().out == line
    assert "1,198 documents" in line
    assert "1 that hold a control token of the tokenizer, 1 longer than 512 tokens" in line
    assert rows_hash(first) == rows_hash(second)
    assert first[:5] == second[:5]


@pytest.mark.slow
def test_rows_are_tokenised_again_after_a_change_of_template_setting_or_rows(
    on_disk: Dataset, tokenizer: Any, asked: list[int]
) -> None:
    training_rows(on_disk, tokenizer, SFT(), max_length=512)
    other = with_template(load_model("tiny", device="cpu")[1])
    other.chat_template = other.chat_template.replace("~\n", "~\n\n")
    for changed, rows, words, objective, size in [
        ("length", on_disk, tokenizer, SFT(), 256),
        ("template", on_disk, other, SFT(), 512),
        ("rows", on_disk.select(range(700)), tokenizer, SFT(), 512),
        ("setting", on_disk, tokenizer, SFT(train_on_prompt=True), 512),
    ]:
        asked.clear()
        training_rows(rows, words, objective, max_length=size)
        assert asked, changed


@pytest.mark.slow
def test_the_rows_of_a_users_own_objective_are_made_at_each_start(
    on_disk: Dataset, tokenizer: Any
) -> None:
    class Backwards(SFT):
        def groups(self, *arguments: Any, **named: Any) -> Any:
            groups = super().groups(*arguments, **named)
            for group in groups:
                for sequence in group.sequences:
                    sequence["input_ids"].reverse()
            return groups

    usual = training_rows(on_disk, tokenizer, SFT())
    assert rows_hash(training_rows(on_disk, tokenizer, Backwards())) != rows_hash(usual)
    Backwards.groups = SFT.groups  # a cell that is run again
    assert rows_hash(training_rows(on_disk, tokenizer, Backwards())) == rows_hash(usual)


@pytest.mark.slow
def test_rows_from_a_list_and_from_a_table_on_disk_are_the_same(
    on_disk: Dataset, tokenizer: Any
) -> None:
    rows = on_disk.to_list()
    for packing in (True, False):
        listed = training_rows(rows, tokenizer, SFT(packing=packing))
        stored = training_rows(on_disk, tokenizer, SFT(packing=packing))
        assert listed.to_list() == stored.to_list()
        assert rows_hash(listed) == rows_hash(stored)


def test_the_hash_is_of_the_values_in_their_order(tokenizer: Any) -> None:
    problems = read_problems("tiny-mathqa", limit=20)[0]
    rows = training_rows(problems, tokenizer, MultipleChoice())
    same = Dataset.from_list(rows.to_list(), features=rows.features)
    assert rows_hash(same) == rows_hash(rows)
    kept = rows.add_column("reference", [[[0.5]]] * len(rows))
    assert rows_hash(kept) == rows_hash(rows)
    seen = {rows_hash(rows)}
    order = [*range(1, 20), 0]
    changed = [rows.select(order), rows.select(range(19))]
    for key in ("input_ids", "labels"):
        one = rows.to_list()
        one[7][key][0][-1] += 1
        changed.append(Dataset.from_list(one, features=rows.features))
    one = rows.to_list()
    one[7]["label"] += 1
    changed.append(Dataset.from_list(one, features=rows.features))
    one = rows.to_list()  # the same tokens, cut at another place
    one[3]["input_ids"][1].insert(0, one[3]["input_ids"][0].pop())
    changed.append(Dataset.from_list(one, features=rows.features))
    for other in changed:
        assert rows_hash(other) not in seen
        seen.add(rows_hash(other))


def test_the_hash_of_texts_is_of_the_texts() -> None:
    def hashed(*names: str) -> str:
        rows = [{"input_ids": [[1, 2]], "labels": [[1, 2]], "name": name} for name in names]
        return rows_hash(Dataset.from_list(rows))

    assert hashed("a", "b") == hashed("a", "b")
    assert len({hashed("a", "b"), hashed("b", "a"), hashed("ab", "")}) == 3


@pytest.mark.slow
def test_a_stream_becomes_the_same_rows(on_disk: Dataset, tokenizer: Any, tmp_path: Path) -> None:
    on_disk.to_json(tmp_path / "again.jsonl")
    stream = load_problems(tmp_path / "again.jsonl", streaming=True)
    streamed = training_rows(stream, tokenizer, SFT())
    assert streamed.to_list() == training_rows(on_disk, tokenizer, SFT()).to_list()
