"""The adapters, groups and tenants that the state machine plays with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lragent.cache import CacheClient, KeyScope
from lragent.sharing import Policy

# name: (group or None when isolated, policy, slot). Members of one slot have one A; `*-bare` is the
# base model as a member of a group, `bare` the base model on its own.
ADAPTERS: dict[str, tuple[str | None, Policy, int | None]] = {
    "iso0": (None, Policy.ISOLATED, 0),
    "iso1": (None, Policy.ISOLATED, 0),
    "bare": (None, Policy.ISOLATED, None),
    "full0": ("F", Policy.FULL, None),
    "full1": ("F", Policy.FULL, None),
    "full-bare": ("F", Policy.FULL, None),
    "base0": ("B", Policy.BASE, 0),
    "base1": ("B", Policy.BASE, 1),
    "base2": ("B", Policy.BASE, None),
    "lr0": ("L", Policy.BASE_LR, 0),
    "lr1": ("L", Policy.BASE_LR, 1),
    "lr2": ("L", Policy.BASE_LR, 1),
    "lr-bare": ("L", Policy.BASE_LR, None),
    "neutral0": ("N", Policy.NEUTRAL, 0),
    "neutral1": ("N", Policy.NEUTRAL, 1),
    "neutral-bare": ("N", Policy.NEUTRAL, None),
}
NAMES = tuple(ADAPTERS)
RELOADABLE = tuple(name for name in NAMES if not name.endswith("bare"))
SLOTS = 2


@dataclass(frozen=True)
class Spec:
    """What the test knows of a client: facts, not the package's view of them.

    ``weights`` is the adapter's content, ``members`` the contents that may write what it reads,
    ``a_of`` the A behind each slot of its group, ``fills`` the slots that it writes.
    """

    policy: Policy
    tenant: str
    sharer: str
    weights: str
    members: frozenset[str]
    slot: int | None
    a_of: tuple[str, ...]
    fills: tuple[int, ...]
    client: CacheClient

    def context(self, prompt: Sequence[int]) -> int | None:
        """Leading tokens that the base model reads under ``neutral``; None when all are alike."""
        acts = self.policy is Policy.NEUTRAL and self.weights != "base-model"
        return len(prompt) - 1 if acts else None

    @property
    def scope(self) -> tuple[str, str, str]:
        return (self.policy.value, self.tenant, self.sharer)


class World:
    """Which adapters are loaded, in which version."""

    def __init__(self) -> None:
        self.version = dict.fromkeys(NAMES, 0)
        self.loaded = set(NAMES)

    def weights(self, name: str) -> str:
        return "base-model" if name.endswith("bare") else f"{name}@{self.version[name]}"

    def sharer(self, name: str) -> str:
        group, policy, _ = ADAPTERS[name]
        if group is None:
            return self.weights(name)
        return f"{policy.value}:" + ",".join(sorted(self.weights(n) for n in self._members(group)))

    def spec(self, name: str, tenant: str) -> Spec:
        group, policy, slot = ADAPTERS[name]
        members = [name] if group is None else self._members(group)
        owners = {ADAPTERS[n][2]: n for n in reversed(members)}
        a_of = tuple(f"A of {self.weights(owners[s])}" for s in range(SLOTS) if s in owners)
        slots = tuple(s for s in range(SLOTS) if s in owners)
        own = () if slot is None else (slot,)
        scope = KeyScope("model", "float32", "layout", tenant, self.sharer(name), policy.value)
        fills = slots if policy in (Policy.BASE_LR, Policy.NEUTRAL) else own
        readers = ["bare"] if policy is Policy.NEUTRAL else members
        return Spec(
            policy=policy,
            tenant=tenant,
            sharer=scope.sharer,
            weights=self.weights(name),
            members=frozenset(map(self.weights, readers)),
            slot=slot,
            a_of=tuple(a_of[slots.index(s)] if s in slots else "" for s in range(SLOTS)),
            fills=fills,
            client=CacheClient(scope, slot, fills, policy is not Policy.ISOLATED),
        )

    def _members(self, group: str) -> list[str]:
        return [n for n in NAMES if ADAPTERS[n][0] == group and n in self.loaded]
