"""The command line: ``mathsft COMMAND`` calls the functions that the notebooks call.

A command is a generator: it yields its options (`Options`), receives the values that were given
(the sections of a recipe, and the options without a section), and does its work. So the help page
and the shell's completion see the options of all commands, and nothing is imported before it is
needed.
"""

import os
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import version
from typing import Any, Literal

from mathsft.checks import unknown_name
from mathsft.command_line import CONFIG, Options, completion, split
from mathsft.data_commands import (
    cleaning,
    deduplicate_many,
    generate,
    mix,
    search_prompt,
    store_teacher,
)
from mathsft.device import default_profile
from mathsft.model_commands import chat, merge, submit
from mathsft.options import Option, options_of
from mathsft.processes import say
from mathsft.recipes import RECIPE
from mathsft.recipes.sections import objective_names, recipe_sections
from mathsft.settings import load_settings, quiet, runs_folder
from mathsft.told import exit_with, is_told, on_the_command_line

Given = dict[str, Any]
Command = Generator[Options, tuple[dict[str, Given], Given], None]
Arguments = Sequence[str]
_BASE = "a file with the base model's result"
# The sections of a recipe that a training run reads besides those of its objective and its data.
_SECTIONS = ("mix", "add_choices", "freeze", "persist", "show_samples")


def _describe(about: str, _: Arguments) -> Command:
    from mathsft.device import describe

    yield Options("describe", about)
    describe()


def _course(about: str, _: Arguments) -> Command:
    from mathsft.course import course

    given = (yield Options("course", about, options_of(course)))[1]
    course(**given)


def _training(objective: str | None = None) -> Callable[[str, Arguments], Command]:
    def command(about: str, arguments: Arguments) -> Command:
        from mathsft.objectives import objective_class
        from mathsft.objectives.groupwise import Policy
        from mathsft.training.by_recipe import train_by_recipe

        known = objective_names()
        name = objective or dict(split(arguments)[0]).get("objective")
        plain = {
            "config": RECIPE,
            **options_of(train_by_recipe, skip={"recipe", "objective"}),
        }
        if objective is None:
            told = "what the model is trained for"
            plain["objective"] = Option(Literal[tuple(known)], help=told, required=True)
        here = [name] if name in known else known
        used = [
            "model",
            *(one for each in here for one in objective_class(each).sections),
            *_SECTIONS,
            *here,
        ]
        kinds = [objective_class(each) for each in here]
        if any(issubclass(kind, Policy) or kind.needs_teacher for kind in kinds):
            used += ["rollout", "reward_function", "server"]
        sections, given = yield Options(
            f"{objective or 'train'}".replace("_", "-"),
            about,
            plain,
            sections={one: recipe_sections()[one] for one in used},
            always=["model", *(here if name in known else [])],
            shorthand=name or "",
            recipe=default_profile,
        )
        train_by_recipe(sections, **{"objective": name, **given})

    return command


def _evaluate(about: str, _: Arguments) -> Command:
    from mathsft.evaluation.run import evaluate

    model = '"tiny", a folder, or a hub name, which may be a merged model'
    own = {"config": CONFIG, "model": _text(model, required=True), "base": _text(_BASE)}
    of_served = (
        "with --base_url: the served model's tokenizer, a folder or a hub name; else --model"
    )
    own["tokenizer"] = _text(of_served)
    own |= options_of(evaluate, skip={*own})
    given = (yield Options("evaluate", about, _with_the_harness_s(own)))[1]
    found = evaluate(**_with_base(given))
    for result in found if isinstance(found, list) else [found]:
        say(str(result))


def _compare(about: str, _: Arguments) -> Command:
    from mathsft.evaluation.compare import compare_all
    from mathsft.evaluation.compare_text import comparison_lines

    own = options_of(compare_all, skip={"results", "base"})
    told = "result files, folders of them, or folders that lm_eval --log_samples wrote"
    files = Option(list[str], help=told, required=True)
    name = _text("the run that all others are compared with")
    given = (yield Options("compare", about, {"base": name, **own}, {"results": files}))[1]
    for line in comparison_lines(given.pop("results"), **given):
        print(line)


def _report(about: str, _: Arguments) -> Command:
    from mathsft.evaluation.report import write_report

    places = {
        "results": _text("a folder of results; default: results in the runs' folder"),
        "path": _text("the page to write; default: report.html"),
    }
    given = (yield Options("report", about, options_of(write_report, skip={*places}), places))[1]
    print(write_report(**{"results": runs_folder() / "results", "path": "report.html", **given}))


def _watch(about: str, _: Arguments) -> Command:
    from mathsft.evaluation.run import evaluate
    from mathsft.evaluation.watch import FIXED, watch

    own = {"config": CONFIG, "base": _text(_BASE), **options_of(watch)}
    own |= options_of(evaluate, skip={*own, *FIXED})
    given = (yield Options("watch", about, _with_the_harness_s(own)))[1]
    watch(**_with_base(given))


def _estimate_memory(about: str, _: Arguments) -> Command:
    from mathsft.recipes.estimate import estimate_memory

    recipe = {"recipe": _text("a shipped recipe's name, or a file")}
    own = options_of(estimate_memory, skip={*recipe})
    given = (yield Options("estimate-memory", about, own, recipe))[1]
    name, section = given.get("recipe") or default_profile(), given.get("section", "sft")
    print(f"recipe {name}, section {section}")
    print(estimate_memory(**given))


COMMANDS: dict[str, tuple[Callable[[str, Arguments], Command], str]] = {
    "describe": (_describe, "show what this machine can do, and the reason for each choice"),
    "course": (_course, "run the lessons, and build a site of them with a report"),
    "train": (_training(), "train a model for any objective"),
    "sft": (_training("sft"), "fine-tune on worked solutions or conversations"),
    "multiple-choice": (_training("multiple_choice"), "train the log-likelihood of choices"),
    "store-teacher": (store_teacher, "keep what a teacher says about a data set in a file"),
    "mix": (mix, "write a mixture of data sets into a file"),
    "deduplicate": (cleaning("deduplicate"), "keep one of the rows that are nearly the same"),
    "deduplicate-files": (deduplicate_many, "the same for many files, here or on Slurm"),
    "decontaminate": (cleaning("decontaminate"), "leave out rows that hold a question of a test"),
    "generate": (generate, "answer a basket of prompts through an OpenAI-compatible server"),
    "evaluate": (_evaluate, "score a model on tasks of lm-evaluation-harness"),
    "compare": (_compare, "compare models that answered the same questions (paired tests)"),
    "search-prompt": (search_prompt, "search for a prompt of real tokens, and score it"),
    "report": (_report, "write tables and plots of results into one page"),
    "watch": (_watch, "evaluate checkpoints while a training run writes them"),
    "chat": (chat, "ask a model questions in the terminal"),
    "merge": (merge, "merge an adapter into its base, as a whole model"),
    "submit": (submit, "score a run on the capstone's questions, for the leaderboard"),
    "estimate-memory": (_estimate_memory, "estimate the memory of a training run before it starts"),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """``mathsft COMMAND …``; ``mathsft COMMAND --help`` lists a command's options.

    ``mathsft --completion bash`` (zsh, tcsh) prints a script that completes commands and options.
    An error that a function raises is shown as one line, exit status 1; with ``MATHSFT_DEBUG=1``
    as a traceback (`mathsft.told`). Wrong options: exit status 2; Ctrl-C: 130.
    """
    name, *rest = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    try:
        _run(name, rest)
        sys.stdout.flush()  # now, while a closed pipe can still be told
    except (Exception, KeyboardInterrupt) as error:
        if os.environ.get("MATHSFT_DEBUG") or not is_told(error):
            raise
        exit_with(error, name)


def _run(name: str, rest: Sequence[str]) -> None:
    if name in ("-h", "--help"):
        print("usage: mathsft COMMAND [--help] …, or mathsft --version, --completion SHELL\n")
        print("\n".join(f"  {name:17} {about}" for name, (_, about) in COMMANDS.items()))
        return
    if name == "--version":
        print(f"mathsft {version('mathsft')}")
        return
    if name not in COMMANDS and name != "--completion":
        sys.exit(f"mathsft: {unknown_name('command', name, COMMANDS)}")
    load_settings()
    quiet()
    if name == "--completion":
        print(completion([next(of(about, [])) for of, about in COMMANDS.values()], *rest[:1]))
        return
    command, about = COMMANDS[name]
    steps = command(about, rest)
    given = next(steps).read(rest)
    with on_the_command_line(), suppress(StopIteration):
        steps.send(given)


def _text(help: str, *, required: bool = False) -> Option:
    return Option(str, help=help, required=required)


def _with_the_harness_s(own: Given) -> Given:
    """The options, and the further arguments that `evaluate` passes on to the harness."""
    import lm_eval

    from mathsft.evaluation.run import UNHEEDED

    filled = {"model", "tokenizer", "task_manager", "fewshot_random_seed", "log_samples"}
    skip = {*own, *UNHEEDED, *filled}
    found = {**own, **options_of(lm_eval.simple_evaluate, skip=skip, defaults=False)}
    why = "it lets code run, so it counts only on the command line: a file may be somebody else's"
    only = ("trust_task_code", "confirm_run_unsafe_code")
    return found | {name: replace(found[name], line_only=why) for name in only}


def _with_base(given: Given) -> Given:
    """The options with the base's result instead of its file."""
    from mathsft.evaluation.results import load_results

    if base := given.pop("base", None):
        found = load_results(base)
        if len(found) != 1:
            raise ValueError(f"--base {base}: give the file of one result; found {len(found)}")
        given["base"] = found[0]
    return given
