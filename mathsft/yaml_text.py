"""YAML, read so that nothing in it is lost: a key that is given twice is an error.

YAML's parsers keep the last of two equal keys. A recipe with two blocks ``sft:`` would train with
the second one alone.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any


def load_yaml(text: str, where: Any) -> Any:
    """The content of ``text``, plain values only; ``where`` names it in an error.

    Anchors and merge keys (``<<: *base``) work as YAML has them: an own key wins over a merged one.

    Raises ValueError for what is no YAML, and for a mapping that has a key twice, at any depth.
    """
    import yaml

    try:
        check_keys(text, where)
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{where}: not valid YAML: {error}") from None


def check_keys(text: str, where: Any = "") -> None:
    """Raise ValueError, with the lines, if a mapping in ``text`` has a key twice.

    Looked at before anything is merged: afterwards nobody could tell a merged key from an own one.
    What is no YAML raises yaml.YAMLError.
    """
    import yaml

    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        for path, first, second in _twice(node, "", set(), loader) if node else ():
            before = f"{where}, " if where else ""
            raise ValueError(
                f"{before}line {second}: {path} is given twice (first in line {first}), and only "
                "one of the two would count: put them together"
            )
    finally:
        loader.dispose()


def check_values(arguments: Sequence[str]) -> None:
    """`check_keys` for the mappings and lists on a command line, such as ``--mix.parts '{…}'``."""
    import yaml

    for before, argument in zip(["", *arguments], arguments, strict=False):
        name, _, value = argument.partition("=") if argument[:2] == "--" else (before, "", argument)
        if value.lstrip()[:1] in ("{", "["):
            with suppress(yaml.YAMLError):  # what is no YAML may be a text
                check_keys(value, name)


def _twice(node: Any, path: str, seen: set[int], loader: Any) -> Iterator[tuple[str, int, int]]:
    """The keys that a mapping has twice: their path, and the lines of both."""
    import yaml

    if id(node) in seen:  # an anchor, which may even hold itself
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for number, inner in enumerate(node.value):
            yield from _twice(inner, f"{path}[{number}]", seen, loader)
    if not isinstance(node, yaml.MappingNode):
        return
    lines: dict[Any, int] = {}
    for key, inner in node.value:
        here = f"{path}.{key.value}" if path else str(key.value)
        if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
            name = loader.construct_object(key)  # 'a' and "a" are one key, and so are 1 and 0x1
            if name in lines:
                yield here, lines[name], key.start_mark.line + 1
            lines[name] = key.start_mark.line + 1
        yield from _twice(inner, here, seen, loader)
