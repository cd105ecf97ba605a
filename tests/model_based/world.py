"""Adapters and groups that the state machine plays with: facts, in nobody's code."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Adapter:
    """The weights of an adapter as far as sharing looks at them."""

    digest: str
    slot_digest: str | None
    is_alora: bool = False
    acting_tokens: tuple[int, ...] | None = None
    folder: str = ""  # where the plugin's workers would load it from


@dataclass
class Team:
    """A sharing group. Its pages end with its era; ``keys`` are what its slots stand for."""

    policy: str
    with_base: bool
    era: int = 0
    members: dict[str, Adapter] = field(default_factory=dict)
    known: dict[str, Adapter] = field(default_factory=dict)  # those that left, too
    keys: set[str] = field(default_factory=set)


def key_of(policy: str, adapter: Adapter | None) -> str | None:
    """What the slot of an adapter stands for."""
    if adapter is None or policy == "full" or adapter.slot_digest is None:
        return None
    return adapter.slot_digest if policy in ("neutral", "base+lr") else adapter.digest


# group: policy. The base model is in one of them at most, which each run chooses.
TEAMS = {"F": "full", "B": "base", "L": "base+lr", "N": "neutral"}

# name: the group it begins in, and its A: its own, one that others have too, or none.
NAMES: dict[str, tuple[str | None, str]] = {
    "iso0": (None, "own"),
    "iso1": (None, "own"),
    "full0": ("F", "own"),
    "full1": ("F", "own"),
    "base0": ("B", "own"),
    "base1": ("B", "own"),
    "base2": ("B", "none"),
    "lr0": ("L", "own"),
    "lr1": ("L", "common"),
    "lr2": ("L", "common"),
    "neutral0": ("N", "own"),
    "neutral1": ("N", "common"),
    "alora": ("N", "none"),
}
VERSIONS = 3
SLOTS = 2


def adapter(name: str, version: int) -> Adapter:
    """The weights of a name: version 1 keeps the A of version 0, version 2 has another."""
    kind = NAMES[name][1]
    a = None if kind == "none" else f"A of {name}@{version // 2}"
    if kind == "common" and version < 2:
        a = "A of all"
    acting = (1, 1) if name == "alora" else None
    return Adapter(f"{name}@{version}", a, name == "alora", acting)
