"""The package declares all that it imports, and the install lists agree with it."""

import ast
import re
import sys
import tomllib
from collections.abc import Mapping
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name

pytestmark = pytest.mark.same_everywhere

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
CARD = {
    "torch", "transformers", "peft", "bitsandbytes", "trl", "datasets", "lm-eval", "wandb",
    "python-dotenv", "nbval",
}  # fmt: skip
# Imported only when the user needs them; a message says which extra installs them.
ON_DEMAND = {
    "execution.py": EXTRAS["notebooks"],
    "site.py": ["Sphinx", "nbformat", *EXTRAS["site"]],
    "site_extension.py": ["docutils", "Sphinx", *EXTRAS["site"]],
    "instruction_rewards.py": EXTRAS["ifeval"],
    "conversations.py": EXTRAS["data"],
    "basket_client.py": ["anyio"],  # of openai and httpx
    "cli.py": EXTRAS["completion"],
    "command_line.py": EXTRAS["completion"],
    "near_duplicates.py": EXTRAS["data"],
    "near_pipeline.py": EXTRAS["data"],
    "deduplicate_slurm.py": EXTRAS["data"],
    "embedding_duplicates.py": [*EXTRAS["data"], "scikit-learn", "sentence-transformers"],
    "memory.py": ["IPython"],  # only if it runs already
    "notebook.py": ["IPython"],  # otherwise it prints
    "bars.py": ["IPython"],  # only if it runs already
}


def name(requirement: str) -> str:
    found = re.match(r"[\w.-]+", requirement)
    assert found is not None
    return canonicalize_name(found[0])


def listed() -> list[str]:
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def test_requirements_txt_is_the_package_with_the_lessons_and_trackers() -> None:
    assert listed() == [
        *PROJECT["dependencies"],
        *EXTRAS["notebooks"],
        *EXTRAS["tracking"],
        *EXTRAS["data"],
    ]


def test_requirements_txt_names_every_package_of_the_design_card() -> None:
    assert {canonicalize_name(one) for one in CARD} <= set(map(name, listed()))


@cache
def homes() -> Mapping[str, list[str]]:
    """The distributions of each module; finding them reads a file of every installed package."""
    return packages_distributions()


@pytest.mark.parametrize("path", sorted((ROOT / "mathsft").rglob("*.py")), ids=lambda p: p.stem)
def test_a_module_imports_declared_packages_only(path: Path) -> None:
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    modules = {n.module for n in nodes if isinstance(n, ast.ImportFrom) and n.module}
    modules |= {alias.name for n in nodes if isinstance(n, ast.Import) for alias in n.names}
    found = {module.partition(".")[0] for module in modules} - {*sys.stdlib_module_names}
    found -= {"mathsft", "google"}  # google.colab, which Colab has
    declared = {*map(name, PROJECT["dependencies"]), *map(name, ON_DEMAND.get(path.name, []))}
    for module in found:
        assert {canonicalize_name(d) for d in homes().get(module, [module])} & declared, module


@pytest.mark.parametrize("path", sorted((ROOT / "mathsft").rglob("*.py")), ids=lambda p: p.stem)
def test_no_module_needs_unix_to_be_imported(path: Path) -> None:
    unix = {"resource", "fcntl", "pwd", "grp", "termios", "pty"}
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        names = {alias.name for alias in node.names} if isinstance(node, ast.Import) else set()
        assert not names & unix
        assert not (isinstance(node, ast.ImportFrom) and node.module in unix)
