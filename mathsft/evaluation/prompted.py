"""Search for a prompt, score it on held-out problems, and write both: the command search-prompt."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mathsft.data.contamination import without_test_rows
from mathsft.data.problems import load_problems
from mathsft.evaluation.intervals import Accuracy, wilson_interval
from mathsft.evaluation.worked import worked_answers
from mathsft.files import check_writable
from mathsft.generation.prompt_methods import Gumbel, Swaps
from mathsft.generation.prompt_search import FoundPrompt, search_prompt, write_prompt
from mathsft.models.loading import load_model
from mathsft.processes import say
from mathsft.training.recipe_rows import read_test


@dataclass(frozen=True)
class ScoredPrompt:
    """A found prompt and its accuracy on the test's problems; None if no test was named."""

    found: FoundPrompt
    accuracy: Accuracy | None


def search_prompt_by_recipe(
    recipe: Mapping[str, Mapping[str, Any]],
    *,
    output: str | Path,
    method: Literal["gumbel", "swaps"] = "gumbel",
    **search: Any,
) -> ScoredPrompt:
    """Search with a recipe's model and training rows, and score what was found on its test.

    Args:
        recipe: ``model``, ``train`` and ``test`` as for a training run, ``worked`` for the answers;
            ``gumbel`` and ``swaps`` have the settings of the methods. Rows that are in the test
            are left out of the search.
        output: the JSON file to write. It must not exist.
        method: search with gradients, or by trying swaps of tokens.
        search: further arguments of `search_prompt`.

    Raises FileExistsError if the file exists, and what `load_model`, `load_problems`,
    `search_prompt` and `worked_answers` raise.
    """
    path = Path(output)
    if path.exists():
        raise FileExistsError(f"{path} exists already: give another file, or remove it")
    check_writable(path.parent)
    if "train" not in recipe:
        raise ValueError("there are no rows to search with: give train.source")
    test: Any = read_test(recipe["test"]) if "test" in recipe else None
    rows: Any = load_problems(**recipe["train"])
    if test is not None:
        rows = without_test_rows(rows, test)
    model, tokenizer = load_model(**{**recipe["model"], "lora": False})
    settings = dict(recipe.get(method, {}))
    how = Gumbel(**settings) if method == "gumbel" else Swaps(**settings)
    found = search_prompt(model, tokenizer, rows.to_list(), method=how, **search)
    say(f"found {found.text!r} (tokens {found.input_ids}), loss {found.loss:.3f}")
    accuracy = None
    if test is not None:
        asked = found.as_ids(tokenizer)
        answers = worked_answers(model, tokenizer, test, prompt=asked, **recipe.get("worked", {}))
        accuracy = wilson_interval([answer["correct"] for answer in answers])
        say(f"test: {accuracy}")
    told = None if accuracy is None else accuracy._asdict()
    write_prompt(found, path, method=method, test=told)
    return ScoredPrompt(found, accuracy)
