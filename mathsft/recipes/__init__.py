"""What differs between a laptop, a T4 and larger machines: one commented YAML file each.

A recipe has sections; the keys of a section are the keyword arguments of one function:

- ``model`` → ``load_model``, with the fields of peft's ``LoraConfig`` in ``lora``; ``freeze`` →
  ``freeze``;
- ``train`` and ``test``, ``choices_train`` and ``choices`` (multiple choice) → ``load_problems``;
  ``mix`` → ``mix``, with the arguments of ``load_problems`` for each name in its ``datasets``;
  ``add_choices`` → ``add_choices``;
- one for each objective, by its name: the objective's own settings, ``max_length``, and the
  arguments of ``transformers.TrainingArguments``; ``mixing`` (the many short runs of lesson 03)
  as ``multiple_choice``;
- ``persist`` → ``persist``; ``worked`` → ``worked_answers``; ``show_samples`` → ``show_samples``.

Models, data sets and folders that a function is called with are no keys: whoever calls it
gives them (``sections.NOT_KEYS``). Neither is a token: recipes are kept with the runs.
"""

from importlib import resources
from pathlib import Path
from typing import Any

from mathsft.checks import load_yaml, unknown_name
from mathsft.device import default_profile
from mathsft.options import Option, checked
from mathsft.recipes.sections import recipe_sections


def shipped_recipes() -> dict[str, Path]:
    """The recipes that come with the package: their files by name."""
    files = (Path(str(path)) for path in resources.files(__name__).iterdir())
    return {path.stem: path for path in sorted(files) if path.suffix == ".yaml"}


RECIPE = Option(
    str,
    help=f"a shipped recipe's name ({', '.join(shipped_recipes())}), a YAML file or a run's "
    "folder; may be given several times, the later wins",
)


def load_recipe(profile: str | Path | None = None) -> dict[str, dict[str, Any]]:
    """The sections of a recipe, each a dict of keyword arguments, checked against its function.

    Args:
        profile: a shipped recipe's name, a YAML file, or a run's folder with its
            ``config.yaml``; None takes the recipe for this machine
            (`mathsft.device.default_profile`).

    Raises:
        FileNotFoundError: no such recipe; the message lists those that ship.
        ValueError: the file is no mapping of sections; an unknown section or key (the
            message names the nearest); a key given twice; a text where a number, or true or
            false, belongs; a fraction where a whole number does; a number that cannot be meant
            (`mathsft.checks`). YAML reads ``1e-5`` as text: what is meant as a number is
            converted, never passed on.
    """
    sections = read_recipe(profile or default_profile())
    return {name: keys for name, keys in sections.items() if keys is not None}


def read_recipe(profile: str | Path) -> dict[str, dict[str, Any] | None]:
    """As `load_recipe`; None for a section that is null, which leaves out what is under it."""
    name = str(profile)
    shipped = shipped_recipes()
    path = shipped.get(name, Path(name))
    if path.is_dir():
        path = path / "config.yaml"  # a run's folder
    if not path.is_file():
        raise FileNotFoundError(unknown_name("recipe or file", name, shipped))
    recipe = load_yaml(path.read_text(encoding="utf-8"), path)
    if not isinstance(recipe, dict):
        raise ValueError(f"{path}: a recipe is a mapping of sections, found {recipe!r}")
    sections = recipe_sections()
    for section, keys in recipe.items():
        if section not in sections:
            raise ValueError(f"{path}: {unknown_name('section', str(section), sections)}")
        if keys is not None and not isinstance(keys, dict):
            raise ValueError(f"{path}: section {section!r} must map keys to values")
        if keys is not None:
            recipe[section] = checked(keys, sections[section], f"{path}: {section}.")
    return recipe
