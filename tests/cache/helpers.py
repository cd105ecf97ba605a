"""Small makers for the cache tests."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lragent.cache import CacheClient, CacheManager, KeyScope, Lease
from lragent.sharing import Policy

PAGE = 4


GROWTH_ROOM = 16


def scope(sharer: str = "group", tenant: str = "", **other: str) -> KeyScope:
    return KeyScope(
        **{"base_model": "m", "dtype": "float32", "layout": "l", "policy": "base+lr", **other},
        tenant=tenant,
        sharer=sharer,
    )


def client(
    policy: Policy = Policy.BASE_LR,
    slot: int | None = 0,
    group_slots: tuple[int, ...] = (0, 1),
    sharer: str = "group",
    tenant: str = "",
) -> CacheClient:
    """A member that reads ``slot``, in a group of ``group_slots``."""
    fills = group_slots if policy.fills_all_slots else () if slot is None else (slot,)
    where = scope(sharer, tenant, policy=policy.value)
    return CacheClient(where, slot, fills, policy.shares_base)


def make_manager(
    num_pages: int = 16, allocation_hook: Callable[[], None] | None = None
) -> CacheManager:
    """Pages of 1000 bytes with three LR slots of 100."""
    return CacheManager(
        num_pages,
        PAGE,
        1000,
        100,
        slots=3,
        growth_room=GROWTH_ROOM,
        allocation_hook=allocation_hook,
    )


def run(manager: CacheManager, who: CacheClient, tokens: Sequence[int]) -> Lease:
    """Admit and compute a prompt; the lease stays."""
    lease = manager.admit(who, tokens)
    manager.extend(lease, len(tokens))
    manager.commit(lease, tokens, len(tokens))
    manager.check_integrity()
    return lease


def serve(manager: CacheManager, who: CacheClient, tokens: Sequence[int]) -> list[int]:
    """Admit, compute and finish a prompt; returns the pages it had."""
    lease = run(manager, who, tokens)
    pages = list(lease.pages)
    manager.release(lease)
    manager.check_integrity()
    return pages


def hits(manager: CacheManager, who: CacheClient, tokens: Sequence[int]) -> tuple[int, int, int]:
    """(base, LR, computed) tokens that an admission finds; leaves nothing behind."""
    lease = manager.admit(who, tokens)
    found = (lease.base_tokens, lease.lr_tokens, lease.computed_tokens)
    manager.release(lease)
    return found
