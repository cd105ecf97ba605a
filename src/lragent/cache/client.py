"""Who asks for pages: the scope and the LR slots of one adapter, or of the base model."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

from lragent.cache.keys import KeyScope, root_key


@dataclass(frozen=True)
class CacheClient:
    """One reader and writer of the cache.

    Attributes:
        scope: what its page keys start from.
        slot: the LR slot it reads; None when it needs no LR (the bare base model, an adapter
            without LoRA on a cached projection, a policy without slots).
        fills: every LR slot that its new tokens write, its own among them.
        shares: whether other adapters may read its pages.
        name: the adapter's name for people, None for the base model; it decides nothing.

    Raises:
        ValueError: a slot is negative, or ``slot`` is not among ``fills``.
    """

    scope: KeyScope
    slot: int | None
    fills: tuple[int, ...]
    shares: bool
    name: str | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        slots = self.fills if self.slot is None else (self.slot, *self.fills)
        if any(slot < 0 for slot in slots):
            raise ValueError(f"LR slots must not be negative, got {slots}")
        if self.slot not in (None, *self.fills):
            raise ValueError(
                f"slot {self.slot} is not among the slots {self.fills} that the client fills; "
                "its own tokens would never be valid for it"
            )

    @cached_property
    def root(self) -> bytes:
        """The key that the client's first pages chain to."""
        return root_key(self.scope)

    @property
    def needed_mask(self) -> int:
        """The validity bits that a page must have before this client can read its LR."""
        return 0 if self.slot is None else 1 << self.slot

    @property
    def filled_mask(self) -> int:
        """The validity bits that this client's writes make true."""
        return sum(1 << slot for slot in set(self.fills))

    def reads(self, writer: CacheClient) -> bool:
        """Whether it can read the pages that ``writer`` is computing, once they are published."""
        return self.root == writer.root and not self.needed_mask & ~writer.filled_mask
