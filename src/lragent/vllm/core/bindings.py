"""How the requests of one adapter, or of the bare base model, use the cache."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

from lragent.cache.client import CacheClient
from lragent.cache.keys import KeyScope
from lragent.sharing.policies import Policy
from lragent.vllm.core.adapters import Content
from lragent.vllm.messages import OWN_ROW

BASE_MODEL = "base-model"


@dataclass(frozen=True)
class Fill:
    """One slot that new tokens write, and whose A they are multiplied with (see `messages`)."""

    slot: int
    row: int


@dataclass(frozen=True, eq=False)
class Binding:
    """A request keeps the binding it came with, whatever is loaded or unloaded meanwhile.

    Attributes:
        name: the adapter's name, None for the base model.
        content: its weights, None for the base model.
        policy: what it shares.
        sharer: who shares its pages: content digests, never names.
        slot: LR slot that it reads; None when it needs none.
        fills: slots that its new tokens write.
        scope: what all page keys of this engine have in common.
        digests: slot digests of the rows that ``fills`` names.
    """

    name: str | None
    content: Content | None
    policy: Policy
    sharer: str
    slot: int | None
    fills: tuple[Fill, ...]
    scope: KeyScope
    digests: frozenset[str] = frozenset()

    @cached_property
    def client(self) -> CacheClient:
        """The binding in the terms of `lragent.cache`."""
        scope = self.scope
        return CacheClient(
            replace(scope, sharer=self.sharer, policy=self.policy.value),
            self.slot,
            tuple(fill.slot for fill in self.fills),
            self.policy.shares_base,
        )

    @cached_property
    def keys(self) -> list[str]:
        """What enters vLLM's block hashes; nothing (stock hashes) for the base model on its own."""
        return [] if self.sharer == BASE_MODEL else [f"lragent:{self.client.root.hex()}"]

    @property
    def folds(self) -> bool:
        """Whether the adapter's own term goes into V."""
        return self.policy is Policy.FULL and self.content is not None


def alone(name: str | None, content: Content | None, scope: KeyScope) -> Binding:
    """The binding outside of any group: exact, nothing shared with other weights."""
    if content is None:
        return Binding(None, None, Policy.ISOLATED, BASE_MODEL, None, (), scope)
    needs = content.slot_digest is not None
    return Binding(
        name,
        content,
        Policy.ISOLATED,
        f"adapter:{content.digest}",
        0 if needs else None,
        (Fill(0, OWN_ROW),) if needs else (),
        scope,
    )
