"""One result of calls that ran side by side, each with a file of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .result import Result, merge
from .summary import summary


def joined(results: Sequence[Result]) -> Result:
    """One result of several.

    Raises:
        MergeError: they are of different machines, versions, sources or models.
    """
    whole: Result = {**results[0], "engines": {}, "rows": []}
    known: dict[str, int] = {}
    for result in results:
        numbers = _Numbers(known)
        rows = [{**row, "call": numbers.of(row)} for row in result["rows"]]
        engines = {
            name: {**engine, "call": numbers.of(engine)}
            for name, engine in result["engines"].items()
        }
        whole = merge(whole, {**result, "rows": rows, "engines": engines})
        whole["gate"] = whole["gate"] or result["gate"]
    return {**whole, "summary": summary(whole)}


class _Numbers:
    """New numbers for the calls of one file.

    Args:
        known: numbers of all measurements so far, to which this file's are added.
    """

    def __init__(self, known: dict[str, int]):
        self._known = known
        self._calls: dict[int, int] = {}

    def of(self, entry: Mapping[str, Any]) -> int:
        """The number of an entry's call: that of the file which had the entry first."""
        name, call = identity(entry), entry["call"]
        if name not in self._known:
            if call not in self._calls:
                self._calls[call] = max(self._known.values(), default=0) + 1
            self._known[name] = self._calls[call]
        return self._known[name]


def identity(entry: Mapping[str, Any]) -> str:
    """Equal for what is the same measurement, whatever it has been compared with since."""
    return repr(
        sorted((k, v) for k, v in entry.items() if "ratio" not in k and k != "across_calls")
    )
