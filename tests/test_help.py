"""What ``--help`` says of an option is its entry in the function's docstring: each has one."""

import inspect
from collections.abc import Callable
from typing import Any

import pytest
from jsonargparse import ArgumentParser

from mathsft.course import course
from mathsft.data.local_files import write_rows
from mathsft.evaluation.compare import compare_all
from mathsft.evaluation.report import report
from mathsft.evaluation.run import evaluate
from mathsft.evaluation.watch import watch
from mathsft.recipes import _SECTIONS, NOT_KEYS, section_function
from mathsft.training.by_recipe import train_by_recipe
from mathsft.training.estimate import estimate_memory

# Of a command, with what it fills in itself or tells of in another place.
COMMANDS: dict[Callable[..., Any], set[str]] = {
    course: set(), train_by_recipe: {"recipe", "objective"}, write_rows: {"rows"},
    evaluate: set(), watch: set(), compare_all: {"results"}, report: {"results", "path"},
    estimate_memory: {"recipe"},
}  # fmt: skip
FUNCTIONS = COMMANDS | {section_function(section): NOT_KEYS for section in _SECTIONS}


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_no_option_of_our_own_functions_is_without_help(function: Callable[..., Any]) -> None:
    ours = inspect.signature(function).parameters
    parser = ArgumentParser()
    skip: set[Any] = FUNCTIONS[function] & ours.keys()
    parser.add_function_arguments(function, skip=skip, fail_untyped=False)
    told = {action.dest: action.help for action in parser._actions}
    known = {name: told[name] for name in ours if name in told}
    if function is watch:  # hands the rest on to a function that is ours as well
        known |= {name: told[name] for name in inspect.signature(evaluate).parameters & told.keys()}
    assert known
    assert [name for name, text in known.items() if not text] == []
