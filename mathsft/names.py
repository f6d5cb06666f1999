"""One wording for a name that nothing here goes by."""

import difflib
from collections.abc import Iterable


def unknown_name(kind: str, name: str, known: Iterable[str], *, shown: int | None = None) -> str:
    """The message for an unknown ``name``: what is known, and which known name is nearest.

    Of more than ``shown`` names only the nearest is told.
    """
    names = list(known)
    near = nearest(name, names)
    hint = f"; did you mean {near!r}?" if near else ""
    some = f"{len(names):,} are known" if shown and len(names) > shown else None
    return f"unknown {kind} {name!r}: {some or 'known are ' + ', '.join(names)}{hint}"


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that is nearest to ``name``, in whichever case it is written; None if none."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if near:
        return near[0]
    folded = {other.lower(): other for other in names}
    near = difflib.get_close_matches(name.lower(), folded, n=1, cutoff=0.5)
    return folded[near[0]] if near else None
