"""The command line: ``mathsft COMMAND``, from the functions that the notebooks call."""

import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from mathsft.names import unknown_name

if TYPE_CHECKING:
    from mathsft.options import Options

# What commands of a recipe read: always, and where it is given.
_TRAINING = {
    "sft": (["model", "train", "sft"], ["test", "mix", "freeze", "persist", "show_samples"]),
    "multiple_choice": (
        ["model", "choices_train", "multiple_choice"],
        ["choices", "mix", "add_choices", "freeze", "persist"],
    ),
}


def _describe(options: "Options", arguments: list[str]) -> None:
    from mathsft.device import describe

    options.parse(arguments)
    describe()


def _course(options: "Options", arguments: list[str]) -> None:
    from mathsft.course import course

    options.add_function(course)
    course(**_given(options, arguments))


def _training(objective: Any) -> Callable[["Options", list[str]], None]:
    def command(options: "Options", arguments: list[str]) -> None:
        from mathsft.options import RecipeOptions, sections_of
        from mathsft.training.by_recipe import train_by_recipe

        always, sometimes = _TRAINING[objective]
        options = RecipeOptions(options.command, options.about, always, sometimes, train_by_recipe)
        options.set_defaults({"model.lora": True})
        parsed = options.parse(_with_recipe(arguments))
        place = {key: parsed[key] for key in ("output_dir", "resume") if key in parsed}
        train_by_recipe(sections_of(options, parsed), objective, **place)

    return command


def _mix(options: "Options", arguments: list[str]) -> None:
    from mathsft.data.local_files import write_rows
    from mathsft.data.problems import load_problems
    from mathsft.options import RecipeOptions, sections_of
    from mathsft.training.by_recipe import mixture

    options = RecipeOptions(options.command, options.about, ["mix"], ["test"], write_rows)
    parsed = options.parse(arguments)
    sections = sections_of(options, parsed)
    if "mix" not in sections:
        raise ValueError("mix.parts is missing, such as --mix.parts '{gsm8k: 100, mathqa: 100}'")
    test = load_problems(**sections["test"]) if "test" in sections else None
    print(write_rows(mixture(sections["mix"], test), parsed.get("file", "mixture.jsonl")))


def _evaluate(options: "Options", arguments: list[str]) -> None:
    from mathsft.evaluation.run import UNHEEDED, evaluate
    from mathsft.processes import say

    options.add_config()
    options.add_argument(
        "--model",
        required=True,
        help='"tiny", a folder, or a hub name, which may be a merged model',
    )
    options.add_argument("--base", type=str | None, help="the base model's result, a file")
    options.add_function(evaluate, skip={"model", "tokenizer", "base", *UNHEEDED})
    found = evaluate(**_with_base(_given(options, arguments)))
    for result in found if isinstance(found, list) else [found]:
        say(str(result))


def _compare(options: "Options", arguments: list[str]) -> None:
    from mathsft.evaluation.compare import compare_all
    from mathsft.evaluation.report import by_questions
    from mathsft.evaluation.results import load_results

    options.add_argument("results", nargs="+", help="result files, or folders of them")
    options.add_argument("--base", type=str, help="the run that all others are compared with")
    options.add_function(compare_all, skip={"results", "base"})
    given = _given(options, arguments)
    name, sources = given.pop("base"), given.pop("results")
    groups = by_questions(load_results(sources))
    names = {result.name: result for group in groups for result in group}
    if not names:
        raise ValueError(f"{', '.join(sources)}: there are no results of `mathsft evaluate`")
    if name is not None and name not in names:
        raise ValueError(unknown_name("run", name, names))
    for group in groups:
        print(*group, sep="\n")
        base = {result.name: result for result in group}.get(name)
        found = compare_all(group, base=base, **given) if base or name is None else []
        for pair in found:
            holm = f"; p = {pair.p_holm:.2g} after Holm" if len(found) > 1 else ""
            print(f"{pair}{holm}")
        if not found and base is None and name is not None:
            print(f"not compared: {name} answered other questions")
        elif not found:
            print("not compared: no other run answered these questions")


def _report(options: "Options", arguments: list[str]) -> None:
    from mathsft.evaluation.report import report
    from mathsft.settings import runs_folder

    options.add_argument(
        "results",
        nargs="?",
        default=str(runs_folder() / "results"),
        help="a folder of results",
    )
    options.add_argument("path", nargs="?", default="report.html", help="the page to write")
    options.add_function(report, skip={"results", "path"})
    print(report(**_given(options, arguments)))


def _watch(options: "Options", arguments: list[str]) -> None:
    from mathsft.evaluation.run import UNHEEDED
    from mathsft.evaluation.watch import watch

    options.add_config()
    options.add_argument("--base", type=str | None, help="the base model's result, a file")
    options.add_function(watch, skip={"tokenizer", "base", "name", "peft", *UNHEEDED})
    watch(**_with_base(_given(options, arguments)))


def _estimate_memory(options: "Options", arguments: list[str]) -> None:
    from mathsft.device import default_profile
    from mathsft.training.estimate import estimate_memory

    options.add_argument("recipe", nargs="?", help="a shipped recipe's name, or a file")
    options.add_function(estimate_memory, skip={"recipe"})
    given = _given(options, arguments)
    print(f"recipe {given['recipe'] or default_profile()}, section {given['section']}")
    print(estimate_memory(**given))


COMMANDS: dict[str, tuple[Callable[["Options", list[str]], None], str]] = {
    "describe": (_describe, "what this machine can do, and why each choice follows"),
    "course": (_course, "run the lessons, with a page for each and a report"),
    "sft": (_training("sft"), "fine-tune on worked solutions or conversations"),
    "multiple-choice": (_training("multiple_choice"), "train the log-likelihood of choices"),
    "mix": (_mix, "write a mixture of data sets into a file"),
    "evaluate": (_evaluate, "score a model on tasks of lm-evaluation-harness"),
    "compare": (_compare, "paired tests of models that answered the same questions"),
    "report": (_report, "tables and plots of results in one page"),
    "watch": (_watch, "evaluate checkpoints as a training writes them"),
    "estimate-memory": (_estimate_memory, "the memory that a training needs, before it begins"),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """``mathsft COMMAND …``; ``mathsft COMMAND --help`` lists a command's options.

    What a function raises for its arguments is shown as one line, exit status 1; with
    ``MATHSFT_DEBUG=1`` as a traceback. Wrong options: exit status 2.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] in ("-h", "--help"):
        print("usage: mathsft COMMAND [--help] …\n")
        print("\n".join(f"  {name:16} {about}" for name, (_, about) in COMMANDS.items()))
        return
    name, *rest = given
    if name not in COMMANDS:
        sys.exit(f"mathsft: {unknown_name('command', name, COMMANDS)}")
    from mathsft.options import Options
    from mathsft.settings import load_settings, quiet

    load_settings()
    quiet()
    command, about = COMMANDS[name]
    try:
        command(Options(name, about), rest)
    except (ValueError, OSError, ImportError, FloatingPointError, RuntimeError) as error:
        if os.environ.get("MATHSFT_DEBUG"):
            raise
        process = f" (process {os.environ['RANK']})" if "RANK" in os.environ else ""
        sys.exit(f"mathsft {name}{process}: {error} (MATHSFT_DEBUG=1 shows where)")


def _given(options: "Options", arguments: list[str]) -> dict[str, Any]:
    parsed = options.parse(arguments).as_dict()
    parsed.pop("config", None)
    return parsed


def _with_base(given: dict[str, Any]) -> dict[str, Any]:
    """The base's result in place of its file."""
    from mathsft.evaluation.results import load_results

    if base := given.pop("base"):
        found = load_results(base)
        if len(found) != 1:
            raise ValueError(f"--base {base}: one result's file is wanted; found {len(found)}")
        given["base"] = found[0]
    return given


def _with_recipe(arguments: list[str]) -> list[str]:
    """The arguments, with the recipe for this machine in front where none is named."""
    from mathsft.device import default_profile
    from mathsft.options import config_given

    return arguments if config_given(arguments) else ["--config", default_profile(), *arguments]
