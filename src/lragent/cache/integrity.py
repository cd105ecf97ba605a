"""Proves that the cache's books balance."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from lragent.cache.lease import Lease
from lragent.cache.pool import PagePool
from lragent.cache.prefix_index import PrefixIndex
from lragent.cache.stats import CacheStats


def violations(
    pool: PagePool,
    index: PrefixIndex,
    leases: Iterable[Lease],
    stats: CacheStats,
    page_size: int,
    slots: int,
) -> list[str]:
    """Every violated invariant, with its numbers; empty when all hold."""
    leases = list(leases)
    return [
        *_conservation(pool, stats),
        *_references(pool, leases),
        *_leases(pool, leases, page_size),
        *_index(pool, index),
        *_bits(pool, slots),
        *_bytes(stats),
        *_counts(pool, index, stats),
    ]


def _conservation(pool: PagePool, stats: CacheStats) -> Iterable[str]:
    free = {page.id for page in pool.pages if pool.is_free(page.id)}
    idle = set(pool.idle)
    leased = {page.id for page in pool.pages if page.refs > 0}
    if len(free) != pool.free_count:
        yield f"{len(free)} pages are marked free, the count says {pool.free_count}"
    if len(free) + len(leased) + len(idle) != len(pool.pages):
        yield (
            f"{len(free)} free + {len(leased)} leased + {len(idle)} idle pages "
            f"are not {len(pool.pages)}"
        )
    for one, other, names in (
        (free, idle, "free and idle"),
        (free, leased, "free and leased"),
        (idle, leased, "idle and leased"),
    ):
        if one & other:
            yield f"pages are both {names}: {sorted(one & other)}"
    counted = (stats.pages_free, stats.pages_leased, stats.pages_idle)
    if counted != (len(free), len(leased), len(idle)):
        yield f"stats say {counted} pages free, leased, idle: {len(free), len(leased), len(idle)}"


def _references(pool: PagePool, leases: list[Lease]) -> Iterable[str]:
    held = Counter(page_id for lease in leases for page_id in lease.pages)
    for page in pool.pages:
        if page.refs != held[page.id]:
            yield f"page {page.id} counts {page.refs} holders, {held[page.id]} leases hold it"


def _leases(pool: PagePool, leases: list[Lease], page_size: int) -> Iterable[str]:
    for lease in leases:
        if len(set(lease.pages)) != len(lease.pages):
            yield f"{lease} holds a page twice: {lease.pages}"
        if lease.committed > len(lease.pages) * page_size:
            yield f"{lease} committed {lease.committed} tokens, beyond its pages"
        for page_id in lease.pages:
            scope = pool.pages[page_id].scope
            if scope is not None and scope != lease.client.scope:
                yield f"{lease} of scope {lease.client.scope} holds page {page_id} of {scope}"


def _index(pool: PagePool, index: PrefixIndex) -> Iterable[str]:
    published = {page.id for page in pool.pages if page.key is not None}
    indexed = set()
    for key, page in index.items():
        indexed.add(page.id)
        if page.key != key:
            yield f"the index has page {page.id} under a key that is not its own"
    if published != indexed:
        yield f"pages with a key and pages in the index differ: {sorted(published ^ indexed)}"
    if len(indexed) != len(index):
        yield f"{len(index)} index entries lead to {len(indexed)} pages"
    for page in pool.pages:
        if page.id in pool.idle and page.key is None:
            yield f"idle page {page.id} has no key, nobody can find it"
        if page.key is not None and pool.is_free(page.id):
            yield f"free page {page.id} still has a key"


def _bits(pool: PagePool, slots: int) -> Iterable[str]:
    for page in pool.pages:
        if page.valid and page.key is None:
            yield f"page {page.id} has no key, but the validity bits {page.valid:b}"
        if page.valid >> slots:
            yield f"page {page.id} has the validity bits {page.valid:b}, but {slots} LR slots"


def _bytes(stats: CacheStats) -> Iterable[str]:
    if stats.base_bytes + stats.lr_bytes != stats.used_bytes:
        yield (
            f"{stats.base_bytes} base bytes + {stats.lr_bytes} LR bytes are not the "
            f"{stats.used_bytes} bytes of the used pages"
        )


def _counts(pool: PagePool, index: PrefixIndex, stats: CacheStats) -> Iterable[str]:
    published = [page for _, page in index.items()]
    users = sum(len(page.users) for page in published)
    alone = stats.pages_used - len(published) + users
    slots = sum(page.valid.bit_count() for page in published)
    counted = (stats.pages_found, stats.pages_alone, stats.valid_slots)
    if counted != (len(published), alone, slots):
        yield (
            f"stats say {counted} pages found, pages alone, valid slots: "
            f"{len(published), alone, slots}"
        )
    for page in pool.pages:
        if len(set(page.users)) != len(page.users) or bool(page.users) != (page.key is not None):
            yield f"page {page.id} with key {page.key!r} has the users {page.users}"
