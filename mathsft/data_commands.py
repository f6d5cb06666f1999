"""The commands that make data, and prompts: a file, a source or a server in, a new file out."""

from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from mathsft.command_line import CONFIG, Options
from mathsft.device import default_profile
from mathsft.options import Option, options_of
from mathsft.recipes import RECIPE
from mathsft.recipes.sections import recipe_sections

Command = Generator[Options, Any, None]


def mix(about: str, _: Sequence[str]) -> Command:
    """The command ``mix``."""
    from mathsft.data.local_files import check_new_file, write_rows
    from mathsft.training.recipe_rows import mixture, read_test

    file = {"config": RECIPE, **options_of(write_rows, skip={"rows"})}
    sections = {name: recipe_sections()[name] for name in ("mix", "test")}
    recipe, given = yield Options("mix", about, file, sections=sections, always=["mix"])
    check_new_file(**given)
    test = read_test(recipe["test"]) if "test" in recipe else None
    print(write_rows(mixture(recipe["mix"], test), **given))


def store_teacher(about: str, _: Sequence[str]) -> Command:
    """The command ``store-teacher``."""
    from mathsft.training.store_by_recipe import store_by_recipe

    file = {"config": RECIPE, **options_of(store_by_recipe, skip={"recipe"})}
    used = ("model", "train", "test", "mix", "distillation")
    read: dict[str, Any] = {"sections": {name: recipe_sections()[name] for name in used}}
    read |= {"always": ["model", "distillation"], "shorthand": "distillation"}
    recipe, given = yield Options("store-teacher", about, file, **read)
    print(store_by_recipe(recipe, **given))


def generate(about: str, _: Sequence[str]) -> Command:
    """The command ``generate``; an error if no conversation succeeded."""
    from mathsft.generation.basket_client import generate_basket
    from mathsft.generation.server_forms import ServerError

    own = {"config": CONFIG, **options_of(generate_basket)}
    file = "a file of prompts: .jsonl, .json, .csv or .parquet, also with .gz"
    own |= {"basket": Option(str, help=file, required=True)}
    own["tokenizer"] = replace(own["tokenizer"], hint=str)
    own["temperature"] = replace(own["temperature"], ruled=False)  # 0 is greedy
    counts = generate_basket(**(yield Options("generate", about, own))[1]).counts
    if counts.get("failed") == counts["conversations"]:  # a script should not go on to train
        raise ServerError("all conversations failed")


def cleaning(name: Literal["deduplicate", "decontaminate"]) -> Callable[..., Command]:
    """The command of this name. The rows that are kept are written with all of their columns."""

    def command(about: str, _: Sequence[str]) -> Command:
        from mathsft.data.local_files import check_new_file, write_rows
        from mathsft.data.sources import published_rows

        clean: Callable[..., Any]
        if name == "deduplicate":
            from mathsft.data.deduplication import deduplicate as clean
        else:
            from mathsft.evaluation.decontamination import decontaminate as clean
        source = "a .jsonl, .json, .parquet or .csv file (also .gz), or a data set of the hub"
        own = {
            "config": CONFIG,
            "source": Option(str, help=source, required=True),
            "split": Option(str, help="the split of a data set; default: train"),
            "file": Option(str, help="a new file, .jsonl or .parquet", required=True),
        }
        given = (yield Options(name, about, own | options_of(clean, skip={"rows"})))[1]
        file, source = check_new_file(given.pop("file")), given.pop("source")
        report = given.get("report")
        if report and Path(report).resolve() in (file.resolve(), Path(source).resolve()):
            raise ValueError(f"--report {report}: the rows are there, or will be: give another")
        rows = published_rows(source, split=given.pop("split", "train"))
        print(write_rows(clean(rows, **given).rows, file))

    return command


def deduplicate_many(about: str, _: Sequence[str]) -> Command:
    """The command ``deduplicate-files``."""
    from mathsft.recipes.deduplicate_slurm import deduplicate_files

    own = {"config": CONFIG, **options_of(deduplicate_files)}
    deduplicate_files(**(yield Options("deduplicate-files", about, own))[1])


def search_prompt(about: str, _: Sequence[str]) -> Command:
    """The command ``search-prompt``."""
    from mathsft.evaluation.prompted import search_prompt_by_recipe
    from mathsft.generation import prompt_methods, prompt_search

    plain = {"config": RECIPE, **options_of(search_prompt_by_recipe, skip={"recipe"})}
    filled = {"model", "tokenizer", "rows", "method"}
    plain |= options_of(prompt_search.search_prompt, skip=filled)
    sections = {name: recipe_sections()[name] for name in ("model", "train", "test", "worked")}
    sections |= {"gumbel": options_of(prompt_methods.Gumbel)}
    sections |= {"swaps": options_of(prompt_methods.Swaps)}
    how: Any = {"sections": sections, "always": ["model"], "recipe": default_profile}
    recipe, given = yield Options("search-prompt", about, plain, **how)
    search_prompt_by_recipe(recipe, **given)
