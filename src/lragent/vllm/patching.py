"""Replaces attributes of vLLM, once a process."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, NamedTuple

_done: set[tuple[str, str]] = set()


class Hook(NamedTuple):
    """A function, method or constant of vLLM that the plugin puts one of its own around.

    Attributes:
        module: where it lives.
        name: attribute path in the module.
        make: from vLLM's own to what takes its place.
    """

    module: str
    name: str
    make: Callable[[Any], Any]

    def install(self) -> None:
        """Put it in; does nothing the second time."""
        key = (self.module, self.name)
        if key in _done:
            return
        owner: Any = importlib.import_module(self.module)
        *path, last = self.name.split(".")
        for part in path:
            owner = getattr(owner, part)
        setattr(owner, last, self.make(getattr(owner, last)))
        _done.add(key)
