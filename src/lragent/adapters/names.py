"""Help for names that are not known."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_SHOWN = 8


def near_misses(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: what may have been meant, or what there is.

    Returns a text that starts with ``"; "``, to be put after the message's first clause.
    """
    names = sorted(set(known))
    if not names:
        return "; none is known"
    by_lower = {other.lower(): other for other in names}
    close = difflib.get_close_matches(name.lower(), by_lower, n=3, cutoff=0.6)
    if close:
        return "; did you mean " + " or ".join(repr(by_lower[other]) for other in close) + "?"
    listed = ", ".join(repr(other) for other in names[:_SHOWN])
    more = len(names) - _SHOWN
    return f"; known: {listed}" + (f" and {more} more" if more > 0 else "")
