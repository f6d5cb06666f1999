"""Task files from elsewhere: described rows run nothing, and code runs only if it is asked for."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from mathsft.cli import main
from mathsft.evaluation.requests import boxed_templates, shared_out
from mathsft.evaluation.run import evaluate
from mathsft.evaluation.task_code import check_task_files, code_in
from mathsft.evaluation.task_files import TASKS, task_name
from mathsft.evaluation.tasks import load_tasks, task_manager

ROWS = [{"q": f"what is {n} + 1 ?", "choices": [str(n + 1), str(n)], "right": 0} for n in range(6)]
LINES = {
    "output_type": "multiple_choice",
    "test_split": "test",
    "doc_to_text": '"{{q}}"',
    "doc_to_choice": '"{{choices}}"',
    "doc_to_target": "right",
}

LOOPS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"


def task_file(folder: Path, name: str = "mine", **changes: str) -> Path:
    """A task file over rows of its own; ``changes`` are lines of YAML, and "" leaves one out."""
    rows = folder / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    data = {"dataset_path": "json", "dataset_kwargs": f"{{data_files: {{test: {rows}}}}}"}
    lines = {"task": name, **data, **LINES, **changes}
    path = folder / f"{name}.yaml"
    path.write_text("".join(f"{key}: {value}\n" for key, value in lines.items() if value))
    return path


@pytest.fixture
def touched(tmp_path: Path) -> Path:
    """A file that exists once the Python file ``evil.py`` beside the tasks has run."""
    mark = tmp_path / "it-ran"
    (tmp_path / "evil.yaml").write_text("repeats: 1\n")
    (tmp_path / "evil.py").write_text(
        f"open({str(mark)!r}, 'w').close()\n\n\ndef choices(doc):\n    return doc['choices']\n"
    )
    return mark


def refused(path: Path, *words: str) -> None:
    with pytest.raises(ValueError, match="would run code") as caught:
        task_manager([str(path)])
    for word in (*words, "Nothing of it was run", "--trust_task_code true"):
        assert word in str(caught.value)


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


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"doc_to_choice": "!function evil.choices"}, "!function evil.choices"),
        ({"doc_to_text": "!function os.system"}, "!function os.system"),
        ({"doc_to_text": "!<!function> evil.choices"}, "line 6: !function evil.choices"),
        ({"process_docs": "!function evil.choices"}, "!function evil.choices"),
        ({"custom_dataset": "!function evil.choices"}, "!function evil.choices"),
        ({"class": "!function evil.Task"}, "class: a Python class"),
        ({"metric_list": "[{metric: !function evil.choices}]"}, "metric_list.0.metric"),
        ({"metric_list": "[{metric: ./evil}]"}, "a metric's script"),
        ({"metric_list": "[{metric: acc, hf_evaluate: true}]"}, "a metric's script"),
        ({"filter_list": "[{name: a, filter: [{function: custom, filter_fn: !function evil.x}]}]"},
         "!function evil.x"),
        ({"fewshot_config": "{samples: !function evil.choices}"}, "!function evil.choices"),
        ({"metadata": "[&a {deep: [!function evil.choices]}, *a]"}, "!function evil.choices"),
        ({"generation_kwargs": "{custom_generate: x}"}, "generation_kwargs.custom_generate"),
        ({"dataset_kwargs": "{trust_remote_code: true}"}, "dataset_kwargs.trust_remote_code"),
        ({"dataset_path": "pandas"}, "pandas unpickles"),
        ({"dataset_path": "FOLDER"}, "has a script"),
        ({"unsafe_code": "false"}, "unsafe_code"),
        ({"use_prompt": "promptsource:*"}, "use_prompt"),
        # What the harness imports, though the values of the file do not show it.
        ({"metadata": "!!omap [a: !function evil.choices]"}, "!function evil.choices"),
        ({"metadata": "{x: !!pairs [a: !function evil.choices]}"}, "!function evil.choices"),
        ({"<<": "{gen_prefix: !function evil.choices}", "gen_prefix": "a"}, "evil.choices"),
        ({"<<": "[{gen_prefix: a}, {gen_prefix: !function evil.choices}]"}, "evil.choices"),
        ({"include": "!function evil.yaml"}, "!function evil.yaml"),
    ],
    ids=lambda value: "-".join(f"{k}" for k in value) if isinstance(value, dict) else "",
)  # fmt: skip
def test_code_in_a_task_file_is_found_without_running_it(
    tmp_path: Path, touched: Path, changes: dict[str, str], words: str
) -> None:
    changes = {key: value.replace("FOLDER", str(tmp_path)) for key, value in changes.items()}
    refused(task_file(tmp_path, **changes), words)
    assert not touched.exists()


def test_code_in_an_included_file_and_in_a_group_is_found(tmp_path: Path, touched: Path) -> None:
    (tmp_path / "deeper").mkdir()
    task_file(tmp_path, "inner", doc_to_choice="!function evil.choices")
    (tmp_path / "deeper" / "middle.yaml").write_text("include: ../inner.yaml\n")
    outer = tmp_path / "outer.yaml"
    outer.write_text("include: [deeper/middle.yaml]\ntask: outer\n")
    refused(outer, "inner.yaml", "evil.choices")
    assert not touched.exists()


@pytest.mark.parametrize(
    "text",
    [
        "task: [{task: mathqa, dataset_path: json}]",
        "task: [mathqa]\ndataset_path: json",
        "task: [{group: mmlu, dataset_kwargs: {data_files: x}}]",
        "task: [{group: inner, task: [mathqa], dataset_name: x}]",
        "task: [{task: niah_single_1, metadata: {tokenizer: ./evil}}]",  # with its code
        "task: [{task: mathqa, fewshot_config: {samples: [{a: 1}]}}]",
        "task: [{task: mathqa, filter_list: [{name: a, filter: [{function: map}]}]}]",
        "task: [mathqa]\ninclude: rows.yaml",
    ],
)
def test_a_group_gives_no_rows_or_settings_to_the_harness_s_functions(
    tmp_path: Path, text: str
) -> None:
    (tmp_path / "rows.yaml").write_text("dataset_path: json\n")
    theirs = tmp_path / "theirs.yaml"
    theirs.write_text(f"group: g\n{text}\n")
    refused(theirs, "may give other rows to a task of the harness, or settings to its code")
    theirs.write_text("group: g\nmetadata: {version: 1}\ntask: [{task: mathqa, num_fewshot: 2}]\n")
    assert code_in(theirs) == []


@pytest.mark.slow  # the harness reads all its tasks
def test_a_member_of_a_group_that_nobody_knows_is_named(tmp_path: Path) -> None:
    path = tmp_path / "g.yaml"
    path.write_text("group: g\ntask: [mathqa_tiny, nobody_s]\n")
    with pytest.raises(ValueError, match=r"g\.yaml: 'nobody_s' is no task of the harness"):
        task_manager([str(path)])


@pytest.mark.parametrize(
    "template",
    [
        "{{ cycler.__init__.__globals__.os.system('touch FILE') }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ q.__class__ }}",
    ],
)
def test_a_template_cannot_reach_python(tmp_path: Path, template: str) -> None:
    import lm_eval.utils

    text = template.replace("FILE", str(tmp_path / "it-ran"))
    with boxed_templates():
        with pytest.raises(Exception, match=r"unsafe|undefined|access"):
            lm_eval.utils.apply_template(text, {"q": "a"})
        assert lm_eval.utils.apply_template("{{ q | regex_replace('a', 'b') }}\n", {"q": "a"}) == (
            "b\n"
        )
    assert not (tmp_path / "it-ran").exists()


def test_trusted_code_runs_and_only_true_is_trust(
    tmp_path: Path, touched: Path, small_model_dir: Path
) -> None:
    path = str(task_file(tmp_path, doc_to_choice="!function evil.choices"))
    with pytest.raises(ValueError, match="give True or False"):
        evaluate(small_model_dir, path, trust_task_code="false")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="would run code"):
        evaluate(small_model_dir, path)
    assert not touched.exists()
    found = evaluate(small_model_dir, path, limit=2, trust_task_code=True)
    assert (found.task, len(found.questions)) == ("mine", 2)
    assert touched.exists()


@pytest.mark.parametrize("key", ["trust_task_code", "confirm_run_unsafe_code"])
@pytest.mark.parametrize("command", ["evaluate", "watch"])
def test_a_config_cannot_give_trust_to_itself(
    tmp_path: Path, touched: Path, capsys: pytest.CaptureFixture[str], command: str, key: str
) -> None:
    path = task_file(tmp_path, doc_to_choice="!function evil.choices")
    config = tmp_path / "config.yaml"
    config.write_text(f"model: tiny\ntasks: {path}\n{key}: true\nfolder: {tmp_path}\n")
    with pytest.raises(SystemExit) as caught:
        main([command, "--config", str(config), *["--timeout=0"] * (command == "watch")])
    assert caught.value.code == 2
    assert f"{key}: it lets code run" in capsys.readouterr().err
    assert not touched.exists()


def test_a_config_s_task_file_runs_only_with_trust_on_the_line(
    tmp_path: Path, touched: Path, capsys: pytest.CaptureFixture[str], small_model_dir: Path
) -> None:
    path = task_file(tmp_path, doc_to_choice="!function evil.choices")
    config = tmp_path / "config.yaml"
    config.write_text(f"model: {small_model_dir}\ntasks: {path}\nlimit: 2\n")
    with pytest.raises(SystemExit, match=r"evaluate: .*mine\.yaml would run code"):
        main(["evaluate", "--config", str(config)])
    assert not touched.exists()
    main(["evaluate", "--config", str(config), "--trust_task_code", "true"])
    assert "mine: acc" in capsys.readouterr().out
    assert touched.exists()


def test_a_printed_config_has_no_trust_in_it(capsys: pytest.CaptureFixture[str]) -> None:
    line = ["evaluate", "--model", "tiny", "--trust_task_code", "true", "--print_config"]
    with pytest.raises(SystemExit):
        main(line)
    assert capsys.readouterr().out == "model: tiny\n"


@pytest.mark.parametrize(
    "given",
    [
        ["--tasks", "FILE"], ["--tas=mathqa_tiny,FILE"], ["--tasks", "FOLDER"],
        ["--tasks", "mathqa_tiny", "--include_path", "FOLDER"], ["--config", "CONFIG"],
        ["--tasks", "mathqa_tiny", "--cache_requests", "true"], ["validate", "--tasks", "FILE"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_the_harness_s_own_command_line_runs_no_code_unasked(
    tmp_path: Path, touched: Path, monkeypatch: pytest.MonkeyPatch, given: list[str]
) -> None:
    from mathsft import lm_eval

    path = task_file(tmp_path, doc_to_choice="!function evil.choices")
    config = tmp_path / "deeper" / "config.yaml"
    config.parent.mkdir()
    config.write_text(f"model: mathsft\ntasks: {path}\n")
    for word, value in (("FILE", path), ("FOLDER", tmp_path), ("CONFIG", config)):
        given = [argument.replace(word, str(value)) for argument in given]
    passed: list[list[str]] = []
    monkeypatch.setattr(lm_eval, "cli_evaluate", lambda: passed.append(sys.argv))
    monkeypatch.setattr("sys.argv", ["lm_eval", *given])
    with pytest.raises(SystemExit, match=r"would run code|can run code"):
        lm_eval.main()
    assert passed == []
    if "--cache_requests" not in given:
        monkeypatch.setattr("sys.argv", ["lm_eval", *given, "--trust_task_code"])
        lm_eval.main()
        assert passed[0][: len(given) + 1] == ["lm_eval", *given]
    assert not touched.exists()


def test_settings_that_run_a_repository_s_code_are_refused(small_model_dir: Path) -> None:
    from lm_eval.api.instance import Instance

    from mathsft.evaluation.harness import ForestLM

    lm = ForestLM(small_model_dir)
    for key in ("custom_generate", "trust_remote_code"):
        asked = Instance("generate_until", {}, ("a", {"until": ["b"], key: "x"}), 0)
        with pytest.raises(ValueError, match=f"{key} runs code of a repository"):
            lm.generate_until([asked])


def test_requests_are_never_unpickled() -> None:
    from lm_eval.api.task import Task

    with shared_out(), pytest.raises(ValueError, match=r"cache_requests: .* can run code"):
        Task.build_all_requests(None, rank=0, world_size=1, cache_requests=True)


def test_every_task_of_this_package_is_harmless_and_files_are_read_as_the_harness_does() -> None:
    files = sorted(TASKS.glob("*.yaml"))
    check_task_files(files)
    loaded: Any = task_manager(["mathqa_tiny"]).task_index
    for file in files:
        assert loaded[task_name(str(file))].yaml_path == file
