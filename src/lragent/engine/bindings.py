"""How the requests of one adapter use the cache: scope, slots, and what their tokens write."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lragent.adapters.groups import GroupPlan, SharingGroup
from lragent.adapters.model import Adapter
from lragent.cache.policies import Policy

BASE_MODEL_SHARER = "base-model"


@dataclass(frozen=True)
class Binding:
    """The cache behaviour of an adapter, or of the bare base model, at one moment.

    A request keeps the binding it started with, so that a reload or an unload under its name
    changes nothing for it.

    Attributes:
        name: adapter name; None for the base model.
        adapter: the weights; None for the base model.
        sharer: the part of the page key that says who shares: content digests, never names.
        policy: policy of the group, `isolated` outside of groups.
        slot: LR slot that its attention reads; None when it needs none.
        fills: `(slot, slot digest)` of every LR slot that its new tokens write.
        writers: adapters whose A its tokens are multiplied with.
    """

    name: str | None
    adapter: Adapter | None
    sharer: str
    policy: Policy
    slot: int | None
    fills: tuple[tuple[int, str], ...]
    writers: tuple[Adapter, ...]

    @property
    def folds(self) -> bool:
        """Whether the adapter's own term is folded into the cached K and V."""
        return self.policy is Policy.FULL and self.adapter is not None

    @property
    def needs(self) -> tuple[Adapter, ...]:
        """Every adapter whose weights must stay loaded for this binding."""
        own = () if self.adapter is None else (self.adapter,)
        return (*own, *self.writers)


def alone(name: str | None, adapter: Adapter | None) -> Binding:
    """The binding outside of any group: exact, nothing shared with other weights."""
    if adapter is None:
        return Binding(None, None, BASE_MODEL_SHARER, Policy.ISOLATED, None, (), ())
    if adapter.slot_digest is None:
        slot, fills, writers = None, (), ()
    else:
        slot, fills, writers = 0, ((0, adapter.slot_digest),), (adapter,)
    return Binding(
        name, adapter, f"adapter:{adapter.digest}", Policy.ISOLATED, slot, fills, writers
    )


def in_group(
    name: str | None, group: SharingGroup, plan: GroupPlan, present: Mapping[str, Adapter]
) -> Binding:
    """The binding of a group's member, or of the base model in a group that includes it."""
    adapter = None if name is None else present[name]
    policy = group.policy
    if policy is Policy.ISOLATED:
        return alone(name, adapter)
    sharer = f"group:{plan.digest}"
    if policy is Policy.FULL:
        return Binding(name, adapter, sharer, policy, None, (), ())
    slot = None if name is None else plan.slot_of[name]
    if policy is Policy.BASE_LR:
        by_digest = {a.slot_digest: a for a in present.values() if a.slot_digest is not None}
        writers = tuple(by_digest.values())
        fills = tuple((plan.slots[digest], digest) for digest in by_digest)
    elif adapter is None or slot is None or adapter.slot_digest is None:
        writers, fills = (), ()
    else:
        writers, fills = (adapter,), ((slot, adapter.slot_digest),)
    return Binding(name, adapter, sharer, policy, slot, fills, writers)
