"""``--help`` takes an option's text from a docstring entry: each of our options has one."""

import inspect
from collections.abc import Callable
from typing import Any

import pytest

from mathsft.course import course
from mathsft.data.local_files import write_rows
from mathsft.evaluation.compare import compare_all
from mathsft.evaluation.report import write_report
from mathsft.evaluation.run import evaluate
from mathsft.evaluation.watch import watch
from mathsft.generation.chat import chat
from mathsft.models.tuned import merge_folder
from mathsft.objectives import objective_classes
from mathsft.options import options_of
from mathsft.recipes.estimate import estimate_memory
from mathsft.recipes.sections import NOT_KEYS, recipe_sections
from mathsft.sharing.submit import submit
from mathsft.training.by_recipe import train_by_recipe

# Functions of commands, with the arguments that are set or explained elsewhere.
COMMANDS: dict[Callable[..., Any], set[str]] = {
    course: set(), train_by_recipe: {"recipe", "objective"}, write_rows: {"rows"},
    evaluate: set(), watch: set(), compare_all: {"results"}, write_report: {"results", "path"},
    estimate_memory: {"recipe"}, chat: {"model"}, merge_folder: {"adapter", "output_dir"},
    submit: {"run"},
}  # fmt: skip


@pytest.mark.parametrize("function", COMMANDS, ids=lambda function: function.__name__)
def test_no_option_of_our_own_functions_is_without_help(function: Callable[..., Any]) -> None:
    known = options_of(function, skip=COMMANDS[function])
    assert {*known} <= {*inspect.signature(function).parameters}
    assert known
    assert [name for name, option in known.items() if not option.help] == []


@pytest.mark.parametrize("section", recipe_sections())
def test_no_key_of_a_section_is_without_help(section: str) -> None:
    known = recipe_sections()[section]
    assert known
    assert [n for n, option in known.items() if not option.help and not option.refused] == []
    assert not (NOT_KEYS - {section}) & known.keys()  # the section server has a key server


def test_every_setting_of_an_objective_is_a_key_of_its_section() -> None:
    for name, objective in objective_classes().items():
        assert options_of(objective).keys() <= recipe_sections()[name].keys()
