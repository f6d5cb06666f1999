"""Code in task files from elsewhere is found, and runs only if it is asked for."""

import sys
from pathlib import Path

import pytest
from own_tasks import task_file

from mathsft.cli import main
from mathsft.evaluation.requests import boxed_templates, shared_out
from mathsft.evaluation.run import evaluate
from mathsft.evaluation.task_code import code_in
from mathsft.evaluation.tasks import task_manager


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
