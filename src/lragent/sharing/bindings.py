"""How the requests of one adapter, or of the bare base model, use the cache."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Generic, NamedTuple, TypeVar

from lragent.cache.client import CacheClient
from lragent.cache.keys import KeyScope
from lragent.sharing.policies import Policy
from lragent.sharing.slots import Weights

W = TypeVar("W", bound=Weights)

BASE_MODEL = "base-model"
"""The sharer of requests for the base model on its own."""


class Fill(NamedTuple, Generic[W]):
    """An LR slot that new tokens write, and the adapter whose A they are multiplied with."""

    slot: int
    adapter: W


@dataclass(frozen=True, eq=False)
class Binding(Generic[W]):
    """The cache behaviour of an adapter, or of the base model, at one moment.

    A request keeps the binding it came with, whatever is loaded or unloaded meanwhile.

    Attributes:
        name: adapter name; None for the base model.
        adapter: its weights; None for the base model.
        policy: policy of the group, `isolated` outside of groups.
        sharer: who shares its pages: content digests, never names.
        slot: LR slot that its attention reads; None when it needs none.
        fills: slots that its new tokens write, its own first.
    """

    name: str | None
    adapter: W | None
    policy: Policy
    sharer: str
    slot: int | None
    fills: tuple[Fill[W], ...]

    @property
    def folds(self) -> bool:
        """Whether the adapter's own term is folded into the cached K and V."""
        return not self.policy.has_slots and self.adapter is not None

    @property
    def needs(self) -> tuple[W, ...]:
        """Every adapter whose weights must stay loaded for this binding."""
        own = () if self.adapter is None else (self.adapter,)
        return (*own, *(fill.adapter for fill in self.fills))

    def client(self, scope: KeyScope) -> CacheClient:
        """The binding in the cache's terms; ``scope`` without sharer and policy."""
        return CacheClient(
            replace(scope, sharer=self.sharer, policy=self.policy.value),
            self.slot,
            tuple(fill.slot for fill in self.fills),
            self.policy.shares_base,
        )


def alone(name: str | None, adapter: W | None) -> Binding[W]:
    """The binding outside of any group: exact, nothing shared with other weights."""
    if adapter is None:
        return Binding(None, None, Policy.ISOLATED, BASE_MODEL, None, ())
    fills = () if adapter.slot_digest is None else (Fill(0, adapter),)
    slot = 0 if fills else None
    return Binding(name, adapter, Policy.ISOLATED, f"adapter:{adapter.digest}", slot, fills)
