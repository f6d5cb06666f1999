"""One wording for a name that nothing here goes by."""

import difflib
from collections.abc import Iterable


def unknown_name(kind: str, name: str, known: Iterable[str], *, shown: int | None = None) -> str:
    """The message for an unknown ``name``: what is known, and which known name is nearest.

    Of more than ``shown`` names only the nearest is told.
    """
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    some = f"{len(names):,} are known" if shown and len(names) > shown else None
    return f"unknown {kind} {name!r}: {some or 'known are ' + ', '.join(names)}{hint}"
