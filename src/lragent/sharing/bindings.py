"""How the requests of one adapter, or of the bare base model, use the cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Generic, NamedTuple, TypeVar

from lragent.cache.client import CacheClient
from lragent.cache.keys import KeyScope
from lragent.sharing.policies import Policy
from lragent.sharing.slots import Weights
from lragent.sharing.turns import context_tokens

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
        fills: slots that its new tokens write, its own first. Where the base model reads the
            context, tokens of a turn write the own slot alone.
    """

    name: str | None
    adapter: W | None
    policy: Policy
    sharer: str
    slot: int | None
    fills: tuple[Fill[W], ...]

    @property
    def folds(self) -> bool:
        """Whether the adapter's own term is folded into the cached K and V.

        An aLoRA adapter's is folded into those of its turn, since it puts no term on the context's.
        """
        return self.adapter is not None and (not self.policy.has_slots or self.adapter.is_alora)

    @property
    def base_reads(self) -> bool:
        """Whether the base model computes the context; pages of the adapter's turn are private."""
        return self.adapter is not None and (self.policy.base_reads or self.adapter.is_alora)

    def context_tokens(self, prompt: Sequence[int]) -> int | None:
        """How many leading tokens of a request the base model computes; None for all of them."""
        if self.adapter is None or not self.base_reads:
            return 0
        return context_tokens(self.adapter, prompt)

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
            self.name,
        )


def alone(name: str | None, adapter: W | None) -> Binding[W]:
    """The binding outside of any group: exact, nothing shared with other weights."""
    if adapter is None:
        return Binding(None, None, Policy.ISOLATED, BASE_MODEL, None, ())
    fills = () if adapter.slot_digest is None else (Fill(0, adapter),)
    slot = 0 if fills else None
    return Binding(name, adapter, Policy.ISOLATED, f"adapter:{adapter.digest}", slot, fills)
