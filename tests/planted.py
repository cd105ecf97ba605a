"""Faults that tests plant in the package, and the table of what catches which."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

Catcher = Callable[[], None]


@dataclass(frozen=True)
class Fault:
    """A fault.

    Attributes:
        what: in words.
        plant: patches the package.
        caught_by: catchers that must raise.
    """

    what: str
    plant: Callable[[pytest.MonkeyPatch], None]
    caught_by: Sequence[str]


def caught(catcher: Catcher, fault: Fault) -> bool:
    """Whether a catcher finds something wrong; a TypeError, say, is a badly planted fault."""
    with pytest.MonkeyPatch.context() as patch:
        fault.plant(patch)
        try:
            catcher()
        except (AssertionError, KeyError, ValueError, RuntimeError):
            return True
    return False


def pairs(faults: Mapping[str, Fault]) -> list[tuple[str, str]]:
    """Each fault with each catcher that must catch it."""
    return [(name, catcher) for name, fault in faults.items() for catcher in fault.caught_by]


def matrix(faults: Mapping[str, Fault], catchers: Mapping[str, Catcher]) -> dict[str, Any]:
    """Every fault with all that catches it, after a run in which nothing is planted."""
    for run in catchers.values():
        run()
    rows = []
    for name, fault in faults.items():
        found = [catcher for catcher, run in catchers.items() if caught(run, fault)]
        print(f"{name}: {', '.join(found)}", flush=True)
        rows.append({"fault": name, "what": fault.what, "caught_by": found})
    return {"catchers": list(catchers), "faults": rows}
