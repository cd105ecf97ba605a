"""Counters of the cache."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Counters:
    """Running totals. A request counts from its first commit on, so retried admissions do not."""

    requests: int = 0
    prompt_tokens: int = 0
    base_hit_tokens: int = 0
    lr_hit_tokens: int = 0
    reused_tokens: int = 0
    recomputed_tokens: int = 0
    computed_tokens: int = 0
    evictions: int = 0
    not_shared: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class CacheStats:
    """A snapshot of the cache. Pages are counts, sizes are bytes over all layers.

    Attributes:
        pages_free: hold nothing. ``pages_leased``: in use. ``pages_idle``: published, unused.
        page_bytes: size of one page.
        base_bytes: K, V_base and padding of the pages that are leased or idle.
        lr_bytes: LR slots of the same pages, valid or not.
        lr_valid_bytes: the part of ``lr_bytes`` in slots whose validity bit is set.
        requests: leases that committed at least once; the totals below are over these.
        prompt_tokens: their admitted tokens.
        base_hit_tokens: prompt tokens whose K and V_base were cached.
        lr_hit_tokens: prompt tokens whose LR slot was valid, of clients that read a slot.
        reused_tokens: prompt tokens that needed no computation.
        recomputed_tokens: tokens run again although their K and V_base were cached.
        computed_tokens: all tokens run, recomputed and generated ones included.
        evictions: pages taken from the idle to be handed out.
        not_shared: requests that reused no page, by reason (see ``sharing_reasons``).
    """

    pages_total: int
    pages_free: int
    pages_leased: int
    pages_idle: int
    page_bytes: int
    base_bytes: int
    lr_bytes: int
    lr_valid_bytes: int
    requests: int
    prompt_tokens: int
    base_hit_tokens: int
    lr_hit_tokens: int
    reused_tokens: int
    recomputed_tokens: int
    computed_tokens: int
    evictions: int
    not_shared: Counter[str]

    @property
    def pages_used(self) -> int:
        """Leased and idle pages."""
        return self.pages_leased + self.pages_idle

    @property
    def used_bytes(self) -> int:
        """Bytes of leased and idle pages: ``base_bytes + lr_bytes``."""
        return self.pages_used * self.page_bytes
