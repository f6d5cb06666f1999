"""The rows that a recipe names: to train on, and to test with."""

from collections.abc import Mapping
from typing import Any

from datasets import Dataset

from mathsft.data.choices import add_choices
from mathsft.data.contamination import without_test_rows
from mathsft.data.mixtures import mix_datasets
from mathsft.data.problems import load_problems
from mathsft.data.sources import local_path
from mathsft.objectives import objective_class

Recipe = Mapping[str, Mapping[str, Any]]


def read_rows(recipe: Recipe, objective: str) -> tuple[Dataset, Dataset | None]:
    """The rows to train on, and the test's rows if the recipe has a test."""
    train_section, test_section = objective_class(objective).sections
    test: Any = read_test(recipe[test_section]) if test_section in recipe else None
    if "mix" in recipe and train_section in recipe:
        raise ValueError(
            f"mix and {train_section} both say what to train on: leave one out (on the command "
            f"line with --{train_section} null or --mix null)"
        )
    if "mix" in recipe:
        train: Any = mixture(recipe["mix"], test)
    elif train_section in recipe:
        train = load_problems(**recipe[train_section])
        if test is not None:
            train = without_test_rows(train, test)
    else:
        raise ValueError(f"nothing to train on: give {train_section}.source, or mix.parts")
    if "add_choices" in recipe:
        train = add_choices(train, **recipe["add_choices"])
    return train, test


def read_test(section: Mapping[str, Any]) -> Any:
    """The rows of a section ``test`` or ``choices``: of the split test if none is named.

    Without a split, `load_problems` would read the training rows. A file has no splits.
    """
    usual = {} if local_path(section["source"]) is not None else {"split": "test"}
    return load_problems(**{**usual, **section})


def mixture(section: Mapping[str, Any], test: Dataset | None) -> Dataset:
    """The mixture of a recipe's section ``mix``, compared with the test.

    A data set without a ``source`` uses its own name as the source.
    """
    given = section.get("datasets") or {}
    read = {name: load_problems(**{"source": name, **how}) for name, how in given.items()}
    settings = {key: value for key, value in section.items() if key != "datasets"}
    return mix_datasets(**settings, datasets=read, test=test)
