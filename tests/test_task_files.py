"""Task files from elsewhere: those that describe rows and prompts, and those that are no tasks."""

import os
from pathlib import Path
from typing import Any

import pytest
from own_tasks import task_file

from mathsft.evaluation.requests import boxed_templates
from mathsft.evaluation.run import evaluate
from mathsft.evaluation.task_code import check_task_files, code_in
from mathsft.evaluation.task_files import TASKS, task_name
from mathsft.evaluation.tasks import load_tasks, task_manager

LOOPS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"


def test_task_files_of_rows_and_prompts_are_evaluated_alone_together_and_beside_names(
    tmp_path: Path, small_model_dir: Path
) -> None:
    one, two = str(task_file(tmp_path, "one")), str(task_file(tmp_path, "two"))
    found = evaluate(small_model_dir, [one, two, "mathqa_tiny"], limit=2)
    assert [result.task for result in found] == ["one", "two", "mathqa_tiny"]
    assert found[0].scores() == found[1].scores()
    assert [question["choices"] for question in found[0].questions] == [["1", "0"], ["2", "1"]]
    assert task_name(one) == "one"
    assert task_name("mathqa") == "mathqa"


def test_a_group_and_an_included_file_are_read_as_the_harness_reads_them(tmp_path: Path) -> None:
    task_file(tmp_path, "base")
    (tmp_path / "more.yaml").write_text("include: base.yaml\ntask: more\n")
    (tmp_path / "group.yaml").write_text("group: ours\ntask: [mathqa_tiny]\n")
    loaded = task_manager([str(tmp_path / "more.yaml"), str(tmp_path / "group.yaml")]).load(
        [str(tmp_path / "more.yaml"), str(tmp_path / "group.yaml")]
    )
    assert [*loaded["tasks"]] == ["more", "mathqa_tiny"]
    package = tmp_path / "ours.yaml"  # its functions are this package's
    package.write_text(f"include: {TASKS / 'mathqa_tiny.yaml'}\ntask: ours_too\n")
    assert code_in(package) == []


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("no.yaml", None, "there is no such task file"),
        ("list.yaml", "[1]", "expected keys and values"),
        ("cut.yaml", "task: [", "not a task file"),
        ("deep.yaml", "task: " + "[" * 5000, "nested too deep"),
        ("itself.yaml", "task: a\nmetadata: &a [*a]\n", "anchors make more than"),
        ("date.yaml", "task: a\nmetadata: 2024-13-45\n", "not usable as YAML"),
        ("unnamed.yaml", "doc_to_text: x\n", "neither a task nor a group"),
        ("twice.yaml", "task: a\ntask: b\n", "given twice"),
        ("circle.yaml", "task: a\ninclude: circle.yaml\n", "includes itself"),
        ("gone.yaml", "task: a\ninclude: nowhere.yaml\n", "nowhere.yaml: there is no such"),
        ("up.yaml", "task: ../../up\n", "would be part of a file's name"),
        ("nul.yaml", 'task: "a\\0b"\n', "would be part of a file's name"),
        ("long.yaml", f"task: {'a' * 300}\n", "would be part of a file's name"),
        ("built_in.yaml", "task: arc_easy\n", "calls its task 'arc_easy'"),
        ("ours.yaml", "task: mathqa_tiny\n", "calls its task 'mathqa_tiny'"),
        ("tag.yaml", "task: !!python/name:os.system\n", "not a task file"),
        ("loop.yaml", "task: a\nmetadata: &a [1, *a]\n", "anchors make more than"),
        ("date.yaml", "task: a\nmetadata: 2001-99-99\n", "month must be in"),
        ("digits.yaml", f"task: a\nnum_fewshot: {'9' * 5000}\n", "more than 1,000 characters"),
    ],
    ids=lambda value: value if str(value).endswith(".yaml") else "",
)
def test_a_file_that_is_no_task_is_named_in_the_error(
    tmp_path: Path, name: str, text: str | None, message: str
) -> None:
    path = tmp_path / name
    if text is not None:
        path.write_text(text)
    with pytest.raises((ValueError, OSError), match=message) as caught:
        task_manager([str(path)])
    assert name in str(caught.value)


def test_a_folder_a_pipe_two_files_of_one_name_and_other_values_are_errors(tmp_path: Path) -> None:
    task_file(tmp_path, "one")
    with pytest.raises(ValueError, match=r"is a folder: give its task files \(one.yaml\)"):
        task_manager([f"{tmp_path}/"])
    os.mkfifo(tmp_path / "pipe.yaml")
    with pytest.raises(ValueError, match="is a pipe"):
        task_manager([str(tmp_path / "pipe.yaml")])
    (tmp_path / "other.yaml").write_text("include: one.yaml\n")
    with pytest.raises(ValueError, match="both call their task 'one': rename one"):
        task_manager([str(tmp_path / "one.yaml"), str(tmp_path / "other.yaml")])
    with pytest.raises(ValueError, match="the list is empty"):
        task_manager([])
    with pytest.raises(ValueError, match="give a task's name or the path of its file"):
        task_manager([{"task": "mathqa"}])  # type: ignore[list-item]


@pytest.mark.parametrize(
    "changes",
    [
        {"doc_to_text": '"{{nobody}}"'}, {"test_split": "dev"},
        {"unknown_key": "1"}, {"output_type": "poetry"}, {"doc_to_text": '"{{ q"'},
        {"dataset_path": "[pandas]"}, {"dataset_path": "{a: 1}"},
        {"doc_to_text": '"{{ 9**9**9**9 }}"'}, {"doc_to_text": f'"{LOOPS}"'},
    ],
    ids=lambda changes: next(iter(changes)),
)  # fmt: skip
def test_a_task_that_the_harness_cannot_make_is_an_error_with_its_file(
    tmp_path: Path, changes: dict[str, str]
) -> None:
    path = str(task_file(tmp_path, **changes))
    with boxed_templates(), pytest.raises(ValueError, match=r"mine\.yaml: the harness cannot make"):
        load_tasks(task_manager([path]), [path])


def test_every_task_of_this_package_is_harmless_and_files_are_read_as_the_harness_does() -> None:
    files = sorted(TASKS.glob("*.yaml"))
    check_task_files(files)
    loaded: Any = task_manager(["mathqa_tiny"]).task_index
    for file in files:
        assert loaded[task_name(str(file))].yaml_path == file
