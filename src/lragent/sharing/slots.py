"""Which LR slot of a group's pages belongs to whom."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from lragent.sharing.policies import Policy


class Weights(Protocol):
    """What sharing has to know of an adapter: its identity, not its tensors.

    ``digest`` covers everything that changes its results, ``slot_digest`` the down-projections of
    the cached projections; it is None when the adapter has no cached term. ``is_alora`` and
    ``acting_tokens`` say where it begins to act, see `lragent.adapters.Adapter`.
    """

    @property
    def digest(self) -> str:
        """Identity of the adapter."""
        ...

    @property
    def slot_digest(self) -> str | None:
        """Identity of what its slot depends on."""
        ...

    @property
    def is_alora(self) -> bool:
        """Whether its context carries no term of it."""
        ...

    @property
    def acting_tokens(self) -> tuple[int, ...] | None:
        """Where it begins to act; None for the prompt's last token."""
        ...


def slot_key(policy: Policy, adapter: Weights) -> str | None:
    """What a slot of the group stands for; None when the adapter needs no slot.

    Where one agent fills every slot, that is the down-projection, and adapters with one A share a
    slot. Where each agent fills its own, it is the adapter: the slot holds the product with its
    own hidden states.
    """
    if not policy.has_slots or adapter.slot_digest is None:
        return None
    return adapter.slot_digest if policy.fills_all_slots else adapter.digest


def can_share(policy: Policy, adapter: Weights) -> bool:
    """Whether an adapter may be in a group: aLoRA ones need a context that the base model reads."""
    return not adapter.is_alora or policy.base_reads or not policy.shares_base


def plan_slots(
    policy: Policy, adapters: Iterable[Weights], taken: Mapping[str, int] | None = None
) -> dict[str, int]:
    """The slot of each key: those of ``taken`` stay, new keys follow in their own order.

    So the slots of a first set of adapters depend on their contents alone, not on names or order.
    Under ``isolated`` every adapter has slot 0 of its own pages.
    """
    slots = dict(taken or {})
    keys = {key for adapter in adapters if (key := slot_key(policy, adapter)) is not None}
    for key in sorted(keys - slots.keys()):
        slots[key] = len(slots) if policy.shares_base else 0
    return slots


def slots_needed(slots: Mapping[str, int]) -> int:
    """LR slots that each page must have."""
    return max(slots.values(), default=-1) + 1
