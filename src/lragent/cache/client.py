"""Who asks for pages: the scope, the policy and the LR slots of one adapter (or the base model)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

from lragent.cache.keys import KeyScope, frame_bytes, frame_text, root_key
from lragent.cache.policies import Policy


@dataclass(frozen=True)
class CacheClient:
    """One reader and writer of the cache. Make it once an adapter and tenant, and keep it.

    Attributes:
        scope: what its page keys start from.
        policy: the sharing policy of its group, or ``isolated``.
        slot: the LR slot it reads; None when it needs no LR (the bare base model, an adapter
            without LoRA on a cached projection, policy ``full``).
        group_slots: every slot of its group, which ``base+lr`` and ``neutral`` fill.

    Raises:
        ValueError: a slot is negative, or ``slot`` is not one of ``group_slots`` under a policy
            that fills them all.
    """

    scope: KeyScope
    policy: Policy
    slot: int | None
    group_slots: tuple[int, ...]

    def __post_init__(self) -> None:
        slots = self.group_slots if self.slot is None else (self.slot, *self.group_slots)
        if any(slot < 0 for slot in slots):
            raise ValueError(f"LR slots must not be negative, got {slots}")
        if self.policy.fills_all_slots and self.slot not in (None, *self.group_slots):
            raise ValueError(
                f"slot {self.slot} is not among the group's slots {self.group_slots}; "
                f"policy {self.policy.value!r} would never fill it"
            )

    @cached_property
    def root(self) -> bytes:
        """The key that the client's first pages chain to.

        It covers the policy as well as the scope: ``full`` pages hold adapter terms in V, so they
        must not match under another policy even if a sharer digest did not tell the two apart.
        """
        framed = frame_bytes(root_key(self.scope)) + frame_text(self.policy.value)
        return hashlib.sha256(framed).digest()

    @property
    def needed_mask(self) -> int:
        """The validity bits that a page must have before this client can read its LR."""
        return 0 if self.slot is None or not self.policy.has_slots else 1 << self.slot

    @property
    def filled_mask(self) -> int:
        """The validity bits that this client's writes make true."""
        if self.policy.fills_all_slots:
            mask = 0
            for slot in self.group_slots:
                mask |= 1 << slot
            return mask
        return self.needed_mask
