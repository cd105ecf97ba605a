"""What the cache holds, as numbers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class CacheStats:
    """A snapshot of the cache. Pages are counts, sizes are bytes over all layers.

    Attributes:
        pages_free: hold nothing. ``pages_leased``: in use. ``pages_idle``: published, unused.
        page_bytes: size of one page.
        base_bytes: K, V_base and padding of the pages that are leased or idle.
        lr_bytes: LR slots of the same pages, valid or not.
        evictions: pages taken from the idle to be handed out.
        pages_found: those that later requests can find.
        pages_alone: pages that the same contents would take if every adapter kept its own.
        valid_slots: LR slots that are valid, over all pages.
    """

    pages_free: int
    pages_leased: int
    pages_idle: int
    page_bytes: int
    base_bytes: int
    lr_bytes: int
    evictions: int
    pages_found: int
    pages_alone: int
    valid_slots: int

    @property
    def pages_used(self) -> int:
        """Leased and idle pages."""
        return self.pages_leased + self.pages_idle

    @property
    def used_bytes(self) -> int:
        """Bytes of leased and idle pages: ``base_bytes + lr_bytes``."""
        return self.pages_used * self.page_bytes
