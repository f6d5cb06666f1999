"""The command line, for tests that train with a recipe."""

import re
import textwrap
from pathlib import Path

from mathsft import cli

PAGE = Path(__file__).parent.parent / "docs" / "command-line.md"

TINY = ["--config", "tiny", "--model.quantize", "false"]
SHORT = [*TINY, "--train.limit", "40", "--test.limit", "8"]


def mathsft_(*arguments: object) -> None:
    cli.main([str(argument) for argument in arguments])


def printed_recipe(section: str) -> str:
    """The one recipe on the page of the command line that has this section."""
    pages = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    (printed,) = [text for text in map(textwrap.dedent, pages) if f"\n{section}:" in text]
    return printed
