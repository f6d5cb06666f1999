"""The package as a user sees it: quick to import, no network, every public name present."""

import ast
import importlib.util
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import mathsft
from mathsft import compat

ROOT = Path(__file__).parent.parent


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_pulls_in_nothing_heavy() -> None:
    heavy = "{'torch', 'transformers', 'datasets', 'trl', 'peft', 'numpy', 'matplotlib'}"
    assert run(f"import mathsft, sys; print(sorted({heavy} & set(sys.modules)))") == "[]\n"


def test_every_public_name_is_there_and_documented() -> None:
    for name in mathsft.__all__:
        assert getattr(mathsft, name).__doc__, name


# Notebooks call these: removing or renaming one is a decision. A new one need not be listed.
PUBLIC = {
    "TokenForest", "accuracy_by", "add_adapter", "add_choices", "check_tuned", "choice_logprobs",
    "compare", "compare_all", "describe", "device_defaults", "estimate_memory", "evaluate",
    "extract_answer", "forest_mask", "free_memory", "freeze", "generate", "keep_folder",
    "largest_batch", "load_adapter", "load_model", "load_problems", "load_recipe", "load_results",
    "load_settings", "memory_gb", "merge_adapter", "mix_datasets", "multiple_choice_trainer",
    "overlap", "pack", "pairs_table", "persist", "plot_accuracy", "plot_curves", "plot_intervals",
    "plot_loss", "plot_mask", "plot_packing", "quiet", "reading_labels", "results_table", "run_dir",
    "same_answer", "save_adapter", "save_model", "sequence_logprobs", "sft_trainer", "show_samples",
    "stop_after_turns", "template_labels", "tracker", "training_plan", "watch", "wilson_interval",
    "without_test_rows", "worked_answers", "write_csv", "write_report",
}  # fmt: skip


def test_no_public_name_is_gone() -> None:
    assert PUBLIC - set(mathsft.__all__) == set()


@pytest.mark.parametrize(("former", "name"), mathsft._RENAMED.items())
def test_a_former_name_still_works_and_warns_with_the_new_one(former: str, name: str) -> None:
    with pytest.warns(
        DeprecationWarning, match=rf"mathsft\.{former} is now called mathsft\.{name}"
    ):
        found = getattr(mathsft, former)
    assert former not in mathsft.__all__
    if former != "option_logprobs":
        assert found is getattr(mathsft, name)


def test_the_former_option_logprobs_gives_the_sums(small_model_dir: Path) -> None:
    model, _ = mathsft.load_model(small_model_dir)
    ids = [[1, 2, 3], [1, 2, 4, 5]]
    sequences = [{"input_ids": one, "labels": one} for one in ids]
    batch = mathsft.TokenForest(sequences).tensors(pad_token_id=0)
    with pytest.warns(DeprecationWarning, match="is now called"):
        sums = mathsft.option_logprobs(model, batch)
    assert torch.equal(sums, mathsft.sequence_logprobs(model, batch).sum)


def test_the_stub_file_has_the_type_of_every_public_name() -> None:
    stub = ast.parse((ROOT / "mathsft" / "__init__.pyi").read_text(encoding="utf-8"))
    told = {
        name.asname: node.module
        for node in stub.body
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mathsft.")
        for name in node.names
    }
    assert told == mathsft._HOME
    former = {ast.unparse(n.targets[0]): ast.unparse(n.value) for n in stub.body
              if isinstance(n, ast.Assign)}  # fmt: skip
    former |= {n.name: "sequence_logprobs" for n in stub.body if isinstance(n, ast.FunctionDef)}
    assert former == mathsft._RENAMED


def test_the_page_of_public_names_is_made_from_their_docstrings() -> None:
    path = ROOT / "docs" / "make_api.py"
    spec = importlib.util.spec_from_file_location("make_api", path)
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    assert (ROOT / "docs" / "api.md").read_text(encoding="utf-8") == made.page(), (
        "run python docs/make_api.py to write it again"
    )
    assert sorted(" ".join(made.TASKS.values()).split()) == mathsft.__all__


# Data flows one way. Each part imports those before it, and itself.
PARTS = ["data", "models", "objectives", "generation", "training", "evaluation", "recipes",
         "sharing"]  # fmt: skip
# These import any part, inside functions: a recipe names functions of every part, and no other
# module uses ``train_by_recipe``, ``course`` or the command line.
TOP = {"training.by_recipe", "recipes.sections", "recipes.estimate", "course", "cli",
       "command_line", "lm_eval", "__main__"}  # fmt: skip


def modules() -> dict[str, ast.Module]:
    folder = ROOT / "mathsft"
    named = {path.relative_to(folder).with_suffix(""): path for path in folder.rglob("*.py")}
    return {
        ".".join(name.parts).removesuffix(".__init__"): ast.parse(path.read_text(encoding="utf-8"))
        for name, path in named.items()
    }


def imported(tree: ast.Module, names: set[str]) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mathsft."):
            module = str(node.module).removeprefix("mathsft.")
            inner = {f"{module}.{alias.name}" for alias in node.names} & names
            found |= inner or {module}
    return found


@pytest.mark.same_everywhere
def test_no_import_runs_back_up() -> None:
    trees = modules()
    for name, tree in trees.items():
        for other in imported(tree, set(trees)):
            mine, its = name.partition(".")[0], other.partition(".")[0]
            if name in TOP or mine not in PARTS:
                continue
            assert other not in TOP or mine == its, f"{name} imports {other}"
            if its in PARTS:
                assert PARTS.index(its) <= PARTS.index(mine), f"{name} imports {other}"


@pytest.mark.same_everywhere
def test_no_modules_import_each_other_in_a_circle() -> None:
    trees = modules()
    graph = {name: imported(tree, set(trees)) - {name} for name, tree in trees.items()}
    while free := [name for name, others in graph.items() if not others & graph.keys()]:
        for name in free:
            del graph[name]
    assert not graph


def test_import_takes_less_than_a_third_of_a_second() -> None:
    timed = "import time; t = time.perf_counter(); import mathsft; print(time.perf_counter() - t)"
    assert min(float(run(timed)) for _ in range(5)) < 0.3


@pytest.mark.slow
def test_import_and_every_public_name_open_no_connection() -> None:
    code = (
        "import socket, sys\n"
        "seen = []\n"
        "def hook(event, arguments):\n"
        "    if event in ('socket.connect', 'socket.getaddrinfo'):\n"
        "        seen.append(arguments)\n"
        "sys.addaudithook(hook)\n"
        "import mathsft\n"
        "for name in mathsft.__all__:\n"
        "    getattr(mathsft, name)\n"
        "print(seen)\n"
    )
    assert run(code).splitlines()[-1] == "[]"


# Parameters that need no description: name and type say what they are, everywhere.
PLAIN = {
    "model", "tokenizer", "problems", "result", "results", "path", "title", "xlabel", "ylabel",
    "colour",
}  # fmt: skip


@pytest.mark.parametrize("name", mathsft.__all__)
def test_every_parameter_of_a_public_name_has_a_type_and_is_described(name: str) -> None:
    from transformers import TrainingArguments

    found = getattr(mathsft, name)
    function = found.__init__ if inspect.isclass(found) else found
    signature = inspect.signature(function)
    assert signature.return_annotation is not inspect.Signature.empty
    # A class inherits settings, and what is said about them.
    described = inspect.getmro(found) if inspect.isclass(found) else [found]
    documentation = "\n".join(inspect.getdoc(each) or "" for each in described)
    told = " ".join(re.findall(r"`+([^`]+)`+", documentation))
    told += " " + " ".join(re.findall(r"^ *\**(\w+(?:, \**\w+)*):", documentation, re.MULTILINE))
    known = PLAIN | {"self", *re.findall(r"\w+", told)}
    if name.endswith("_trainer"):  # its other keywords are those of transformers
        known |= {*inspect.signature(TrainingArguments).parameters, "callbacks"}
    for parameter in signature.parameters.values():
        if parameter.name != "self":
            assert parameter.annotation is not inspect.Parameter.empty, parameter.name
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD:
            assert parameter.name in known, parameter.name


MODULES = sorted((ROOT / "mathsft").rglob("*.py"))


@pytest.mark.same_everywhere
def test_no_module_but_compat_reads_what_another_library_keeps_to_itself() -> None:
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in MODULES}
    nodes = [(path, node) for path, tree in trees.items() for node in ast.walk(tree)]
    own = {"_replace", "_asdict"}  # of named tuples, and public
    for _, node in nodes:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            own.add(node.name)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            own.add(node.target.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            own |= {node.attr} if ast.unparse(node.value) == "self" else set()
    foreign = [
        f"{path.name}: {ast.unparse(node)}"
        for path, node in nodes
        if isinstance(node, ast.Attribute) and node.attr.startswith("_")
        if not node.attr.startswith("__") and node.attr not in own
        if ast.unparse(node.value) not in ("self", "cls", "super()") and path.stem != "compat"
    ]
    assert foreign == []


def test_private_methods_of_other_libraries_classes_are_listed_in_compat_with_the_reason() -> None:
    found = set()
    for path in MODULES:
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if not isinstance(node, ast.ClassDef) or not node.bases:
                continue
            bases = inspect.getmro(getattr(importlib.import_module(name), node.name))
            foreign = {key for base in bases if not _ours(base) for key in vars(base)}
            used = {inner.name for inner in node.body if isinstance(inner, ast.FunctionDef)}
            used |= {
                inner.attr
                for inner in ast.walk(node)
                if isinstance(inner, ast.Attribute)
                and ast.unparse(inner.value) in ("self", "cls", "super()")
            }
            found |= {key for key in used & foreign if re.match("_[a-z]", key)}
    assert found == set(compat.HOOKS)


def _ours(kind: type) -> bool:
    return kind.__module__.startswith("mathsft")


def test_no_text_but_compat_s_names_a_private_attribute_of_another_library() -> None:
    own = {"_mathsft_trained", "_from_model_config", "_netrc"}  # the last: a file's name
    for path in MODULES:
        if path.stem in ("compat", "columns"):  # columns: ends of columns' names
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and re.fullmatch("_[a-z]+[a-z_]*", str(node.value)):
                assert node.value in own, f"{path}: {node.value}"


def test_no_module_imports_unittest_or_is_too_long() -> None:
    for path in MODULES:
        text = path.read_text(encoding="utf-8")
        assert "unittest" not in text, path
        assert len(text.splitlines()) <= 250, path
