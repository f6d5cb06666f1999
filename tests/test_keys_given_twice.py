"""A key given twice is always an error, so no value is lost silently."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from mathsft import cli
from mathsft.checks import check_keys, load_yaml
from mathsft.data.local_files import read_rows
from mathsft.recipes import load_recipe, shipped_recipes
from mathsft.record import check_same

MERGED = """
base: &base {learning_rate: 0.1, max_steps: 2}
more: &more {<<: *base, max_steps: 3}
most:
  <<: [*more, *base]
  seed: 1
again: *more
"""


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("sft: {seed: 1}\nmodel: {}\nsft: {max_steps: 2}\n", "line 3: sft is given twice"),
        ("sft:\n  seed: 1\n  max_steps: 2\n  seed: 3\n", "line 4: sft.seed is given twice"),
        ("sft: {seed: 1, 'seed': 2}", "sft.seed is given twice"),
        (
            "sft:\n  lr_scheduler_kwargs: {a: {b: 1, b: 2}}\n",
            "sft.lr_scheduler_kwargs.a.b is given twice",
        ),
        (
            "mix:\n  parts: {a: 1}\n  datasets:\n    a: {source: x}\n    a: {source: y}\n",
            "line 5: mix.datasets.a is given twice (first in line 4)",
        ),
        ("mix: {parts: {a: 1, b: 2, a: 3}}", "mix.parts.a is given twice"),
        ("freeze: {patterns: [{a: 1, a: 1}]}", "freeze.patterns[0].a is given twice"),
        ("b: &b {seed: 1, seed: 2}\nsft: *b\n", "b.seed is given twice"),
    ],
)
def test_a_recipe_with_a_key_twice_is_refused_at_any_depth(
    tmp_path: Path, text: str, told: str
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=rf"{re.escape(str(path))}, .*{re.escape(told)}"):
        load_recipe(path)
    with pytest.raises(ValueError, match="is given twice"):
        load_yaml(text.replace("sft:", "eval:"), "another file")


def test_merge_keys_and_anchors_work_as_yaml_has_them() -> None:
    assert load_yaml(MERGED, "") == yaml.safe_load(MERGED)
    assert load_yaml(MERGED, "")["most"] == {"learning_rate": 0.1, "max_steps": 3, "seed": 1}
    with pytest.raises(ValueError, match="anchors make more than 100,000 values"):
        load_yaml("a: &a [1, *a]", "")  # it contains itself


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner),
        max_leaves=12,
    )
)
@settings(max_examples=100, deadline=None)
def test_what_has_no_key_twice_is_read_as_it_was_written(value: Any) -> None:
    assert load_yaml(yaml.safe_dump(value), "") == value
    keyed = json.dumps({"a": value, "b": value})
    check_keys(keyed)


@given(st.dictionaries(st.text(st.characters(codec="ascii")), st.integers(), min_size=1), st.data())
@settings(max_examples=60, deadline=None)
def test_any_key_that_is_repeated_is_seen(values: dict[str, int], data: st.DataObject) -> None:
    pairs = [*values.items(), (data.draw(st.sampled_from(sorted(values))), 7)]
    text = "{" + ", ".join(f"{json.dumps(key)}: {n}" for key, n in pairs) + "}"
    for nested in (text, f"a: [{text}]"):
        with pytest.raises(ValueError, match="is given twice"):
            check_keys(nested)


def test_no_shipped_recipe_has_a_key_twice() -> None:
    for path in shipped_recipes().values():
        check_keys(path.read_text(encoding="utf-8"), path)


def test_a_run_whose_config_has_a_key_twice_is_not_resumed(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("sft: {seed: 1}\nsft: {seed: 2}\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"config\.yaml, line 2: sft is given twice"):
        check_same(tmp_path, {"sft": {"seed": 2}})


@pytest.mark.parametrize(
    ("command", "text", "told"),
    [
        ("sft", "sft: {seed: 1}\nsft: {seed: 2}\n", "sft is given twice"),
        ("multiple-choice", "model: {lora: {r: 2, r: 4}}\n", "model.lora.r is given twice"),
        ("mix", "mix: {parts: {a: 1, a: 2}}\n", "mix.parts.a is given twice"),
        ("evaluate", "limit: 2\nmodel: tiny\nlimit: 3\n", "line 3: limit is given twice"),
        ("watch", "folder: a\nfolder: b\n", "line 2: folder is given twice"),
    ],
)
def test_a_config_of_the_command_line_with_a_key_twice_is_refused(
    command: str, text: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SystemExit) as stopped:
        cli.main([command, "--config", str(path)])
    assert stopped.value.code == 2
    line = capsys.readouterr().err
    assert str(path) in line
    assert told in line


@pytest.mark.parametrize(
    "option",
    [
        ["--mix.parts", "{gsm8k: 1, gsm8k: 2}"],
        ["--mix.parts={gsm8k: 1, gsm8k: 2}"],
        ["--mix.datasets", '{"gsm8k": {"source": "a", "source": "b"}}'],
    ],
)
def test_a_mapping_on_the_line_with_a_key_twice_is_refused(
    option: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        cli.main(["mix", *option])
    told = capsys.readouterr().err
    assert option[0].partition("=")[0] in told
    assert "is given twice" in told


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        (
            "a.jsonl",
            '{"question": "a", "answer": "#### 1"}\n{"question": "b", "question": "c"}\n',
            "row 2: an object has the key 'question' twice",
        ),
        (
            "a.json",
            '[{"a": 1}, {"a": 1}, {"b": [{"c": 1, "d": 2, "d": 3}]}]',
            "row 3: an object has the key 'd' twice",
        ),
        (
            "a.jsonl",
            '{"messages": [{"role": "user", "content": "a", "role": "assistant"}]}',
            "row 1: an object has the key 'role' twice",
        ),
    ],
)
def test_a_row_with_a_key_twice_is_an_error(
    tmp_path: Path, name: str, text: str, told: str
) -> None:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=f"^{re.escape(f'{path}, {told}')}"):
        read_rows(path)


def test_a_table_with_a_column_twice_is_an_error(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.Table.from_arrays([pyarrow.array(["a"]), pyarrow.array(["b"])], ["q", "q"])
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"a\.parquet: .*two columns 'q'"):
        read_rows(tmp_path / "a.parquet")


def test_real_rows_have_no_key_twice(data_dir: Path) -> None:
    assert len(read_rows(data_dir / "gsm8k" / "train.jsonl")) == 7473
    assert len(read_rows(data_dir / "mathqa" / "dev.json")) > 4000
