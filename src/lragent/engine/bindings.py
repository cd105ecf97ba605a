"""How the requests of one adapter use the cache: scope, slots, and what their tokens write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
        fills: `(slot, slot digest)` of every LR slot that its new tokens write; under `neutral`
            those of its turn.
        writers: adapters whose A its tokens are multiplied with.
        context_fills: the same as `fills` for the context, which the base model computes; None
            when the adapter computes every token.
    """

    name: str | None
    adapter: Adapter | None
    sharer: str
    policy: Policy
    slot: int | None
    fills: tuple[tuple[int, str], ...]
    writers: tuple[Adapter, ...]
    context_fills: tuple[tuple[int, str], ...] | None = None

    @property
    def folds(self) -> bool:
        """Whether the adapter's own term is folded into K and V.

        An aLoRA adapter's is folded into those of its turn, since it puts no term on the context's.
        """
        return self.adapter is not None and (self.policy is Policy.FULL or self.adapter.is_alora)

    @property
    def most_fills(self) -> int:
        """LR slots that one of its tokens writes at most."""
        return max(len(self.fills), len(self.context_fills or ()))

    def context_tokens(self, prompt: Sequence[int]) -> int | None:
        """How many leading tokens of a request the base model computes; None for all of them.

        The adapter acts from the last occurrence of its acting tokens on, or on the prompt's last
        token when it has none; where they do not occur it does not act at all, as in PEFT's aLoRA.
        """
        if self.context_fills is None or self.adapter is None:
            return 0
        acting = self.adapter.acting_tokens
        return len(prompt) - 1 if acting is None else last_occurrence(prompt, acting)

    @property
    def needs(self) -> tuple[Adapter, ...]:
        """Every adapter whose weights must stay loaded for this binding."""
        own = () if self.adapter is None else (self.adapter,)
        return (*own, *self.writers)


def alone(name: str | None, adapter: Adapter | None) -> Binding:
    """The binding outside of any group: exact, nothing shared with other weights."""
    if adapter is None:
        return Binding(None, None, BASE_MODEL_SHARER, Policy.ISOLATED, None, (), ())
    context_fills = () if adapter.is_alora else None
    if adapter.slot_digest is None:
        slot, fills, writers = None, (), ()
    else:
        slot, fills, writers = 0, ((0, adapter.slot_digest),), (adapter,)
    sharer = f"adapter:{adapter.digest}"
    return Binding(name, adapter, sharer, Policy.ISOLATED, slot, fills, writers, context_fills)


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
    if policy.fills_all_slots:
        by_digest = {a.slot_digest: a for a in present.values() if a.slot_digest is not None}
        writers = tuple(by_digest.values())
        fills = tuple((plan.slots[digest], digest) for digest in by_digest)
        if policy is Policy.NEUTRAL and adapter is not None:
            own = tuple(fill for fill in fills if fill[0] == slot)
            return Binding(name, adapter, sharer, policy, slot, own, writers, context_fills=fills)
    elif adapter is None or slot is None or adapter.slot_digest is None:
        writers, fills = (), ()
    else:
        writers, fills = (adapter,), ((slot, adapter.slot_digest),)
    return Binding(name, adapter, sharer, policy, slot, fills, writers)


def last_occurrence(tokens: Sequence[int], part: Sequence[int]) -> int | None:
    """Where `part` begins for the last time in `tokens`; None when it does not occur."""
    part, size = list(part), len(part)
    starts = range(len(tokens) - size, -1, -1)
    return next((i for i in starts if list(tokens[i : i + size]) == part), None)
