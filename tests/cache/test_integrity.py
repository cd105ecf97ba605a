"""Each invariant is broken by hand once, and must be reported with its numbers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.cache.helpers import client, make_manager, run, scope, serve

from lragent.cache import CacheManager, IntegrityError, Lease


def lose_a_page(manager: CacheManager, lease: Lease) -> None:
    manager._pool._free[15] = 0


def wrong_count(manager: CacheManager, lease: Lease) -> None:
    manager._pool.free_count += 1


def extra_holder(manager: CacheManager, lease: Lease) -> None:
    manager._pool.pages[lease.pages[0]].refs += 1


def page_twice(manager: CacheManager, lease: Lease) -> None:
    lease.pages.append(lease.pages[0])


def leased_and_idle(manager: CacheManager, lease: Lease) -> None:
    page = manager._pool.pages[lease.pages[0]]
    manager._pool.idle[page.id] = page


def free_and_leased(manager: CacheManager, lease: Lease) -> None:
    manager._pool._free[lease.pages[0]] = 1


def lost_key(manager: CacheManager, lease: Lease) -> None:
    next(iter(manager._pool.idle.values())).key = None


def wrong_key(manager: CacheManager, lease: Lease) -> None:
    next(iter(manager._pool.idle.values())).key = b"another"


def stale_bits(manager: CacheManager, lease: Lease) -> None:
    manager._pool.pages[15].valid = 0b101


def foreign_page(manager: CacheManager, lease: Lease) -> None:
    manager._pool.pages[lease.pages[0]].scope = scope(tenant="red")


def beyond_pages(manager: CacheManager, lease: Lease) -> None:
    lease.committed = 99


def bits_beyond_the_slots(manager: CacheManager, lease: Lease) -> None:
    for _, page in manager._index.items():
        page.valid = 0xFF


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lose_a_page, r"9 free \+ 2 leased \+ 3 idle pages are not 16|marked free"),
        (wrong_count, r"11 pages are marked free, the count says 12"),
        (extra_holder, r"counts 2 holders, 1 leases hold it"),
        (page_twice, r"holds a page twice"),
        (leased_and_idle, r"both idle and leased: \[\d+\]"),
        (free_and_leased, r"both free and leased: \[\d+\]"),
        (lost_key, r"has no key, nobody can find it"),
        (wrong_key, r"under a key that is not its own"),
        (stale_bits, r"page 15 has no key, but the validity bits 101"),
        (foreign_page, r"holds page \d+ of KeyScope.*red"),
        (beyond_pages, r"committed 99 tokens, beyond its pages"),
        (bits_beyond_the_slots, r"page \d+ has the validity bits 11111111, but 3 LR slots"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_damage_is_reported(damage: Callable[[CacheManager, Lease], None], message: str) -> None:
    manager = make_manager()
    serve(manager, client(), range(100, 112))
    lease = run(manager, client(), range(8))
    manager.check_integrity()
    damage(manager, lease)
    with pytest.raises(IntegrityError, match=message):
        manager.check_integrity()


def test_all_violations_are_listed() -> None:
    manager = make_manager()
    lease = run(manager, client(), range(8))
    extra_holder(manager, lease)
    stale_bits(manager, lease)
    with pytest.raises(IntegrityError, match=r"2 cache invariant\(s\)") as caught:
        manager.check_integrity()
    assert len(caught.value.violations) == 2
