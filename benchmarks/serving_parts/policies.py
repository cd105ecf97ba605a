"""What is compared, by name.

``stock`` is vLLM without the plugin, ``bound`` the same with one adapter for all requests: the best
that sharing can reach. The others are the plugin's policies; with ``-one`` at the end, all requests
use one adapter there too, which shows what having the plugin costs.
"""

from __future__ import annotations

from collections.abc import Sequence

from .adapters import AGENTS

STOCK, BOUND = "stock", "bound"
ONE = "-one"
PLUGIN = ("isolated", "full", "base", "base+lr")
NAMES = (STOCK, BOUND, *PLUGIN, *(policy + ONE for policy in PLUGIN))


GUEST, HOST = "isolated", "base+lr"
"""Adapters outside of groups are isolated: one engine serves them beside a group."""


def engine_of(name: str) -> str:
    """Which engine serves it: ``stock``, or one of the plugin's policies."""
    if name == BOUND:
        return STOCK
    policy = name.removesuffix(ONE)
    return HOST if policy == GUEST else policy


def is_guest(name: str) -> bool:
    """Whether its requests go to adapters outside of the engine's group."""
    return name.removesuffix(ONE) == GUEST


def keeps_copies(name: str) -> bool:
    """Whether each adapter has pages of its own for what all have read."""
    return name in (STOCK, GUEST)


def uses_one_adapter(name: str) -> bool:
    """Whether all requests go to the first adapter."""
    return name == BOUND or name.endswith(ONE)


def engines_of(names: Sequence[str]) -> dict[str, list[str]]:
    """The names by engine: engines as they come in ``names``, an engine's names as in `NAMES`."""
    found: dict[str, list[str]] = {engine_of(name): [] for name in names}
    for name in NAMES:
        if name in names:
            found[engine_of(name)].append(name)
    return found


def plugin_option(engine: str, folders: dict[str, str]) -> dict[str, object] | None:
    """The plugin's part of ``additional_config``; None for stock."""
    if engine == STOCK:
        return None
    return {
        "policy": engine,
        "groups": [list(AGENTS)],
        "adapters": folders,
        "allow_other_base": True,
    }
