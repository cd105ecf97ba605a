"""Where pages come from: order, neighbours, eviction, failing allocations."""

from __future__ import annotations

import pytest
from tests.cache.helpers import GROWTH_ROOM, PAGE, client, hits, make_manager, run, serve

from lragent.cache import CacheManager, LeaseError, OutOfPages


def are_neighbours(pages: list[int]) -> bool:
    return pages == list(range(pages[0], pages[0] + len(pages)))


def test_a_sequence_gets_one_run_of_pages() -> None:
    manager = make_manager(32)
    first, second = run(manager, client(), range(20)), run(manager, client(), range(100, 120))
    assert are_neighbours(first.pages)
    assert are_neighbours(second.pages)


def test_sequences_that_grow_in_turns_stay_in_one_run() -> None:
    manager = make_manager(8 * GROWTH_ROOM)
    leases = [manager.admit(client(), [i]) for i in range(3)]
    for pages in range(1, GROWTH_ROOM):
        for lease in leases:
            manager.extend(lease, pages * PAGE)
    assert all(are_neighbours(lease.pages) for lease in leases)


def test_scattered_pages_are_used_when_there_is_no_run() -> None:
    manager = make_manager(8)
    leases = [manager.admit(client(), [i]) for i in range(8)]
    for lease in leases:
        manager.extend(lease, 1)
    kept = [lease.pages[0] for lease in leases[::2]]
    for lease in leases[1::2]:
        manager.release(lease)
    wide = manager.admit(client(), [9])
    manager.extend(wide, 4 * PAGE)
    assert sorted(wide.pages + kept) == list(range(8))


def test_eviction_takes_the_longest_idle_first() -> None:
    manager = make_manager(6)
    old, new = range(8), range(100, 108)
    serve(manager, client(), old)
    serve(manager, client(), new)
    serve(manager, client(), range(200, 216))
    assert manager.stats().evictions == 2
    assert hits(manager, client(), old)[0] == 0
    assert hits(manager, client(), new)[0] == 8


def test_a_hit_makes_pages_young_again() -> None:
    manager = make_manager(6)
    old, new = range(8), range(100, 108)
    serve(manager, client(), old)
    serve(manager, client(), new)
    assert hits(manager, client(), old)[0] == 8
    serve(manager, client(), range(200, 216))
    assert hits(manager, client(), old)[0] == 8
    assert hits(manager, client(), new)[0] == 0


def test_eviction_takes_the_deepest_page_of_a_sequence_first() -> None:
    manager = make_manager(6)
    prompt = range(20)
    serve(manager, client(), prompt)
    serve(manager, client(), range(100, 112))
    assert manager.stats().evictions == 2
    assert hits(manager, client(), prompt)[0] == 12


def test_leased_pages_are_never_evicted_even_just_admitted_ones() -> None:
    manager = make_manager(4)
    prompt = range(12)
    serve(manager, client(), prompt)
    lease = manager.admit(client(), [*prompt, 1])
    assert lease.base_tokens == 12
    other = manager.admit(client(), [9])
    manager.extend(other, 4)
    with pytest.raises(OutOfPages):
        manager.extend(lease, 13)
    manager.release(other)
    manager.extend(lease, 13)
    assert len(set(lease.pages)) == 4
    manager.check_integrity()


def test_out_of_pages_changes_nothing_and_says_what_to_do() -> None:
    manager = make_manager(4)
    serve(manager, client(), range(8))
    lease = run(manager, client(), range(100, 104))
    before = manager.stats(), list(lease.pages)
    with pytest.raises(OutOfPages, match=r"4 more pages needed, 3 of 4 available.*release") as hit:
        manager.extend(lease, 5 * PAGE)
    assert (hit.value.needed, hit.value.available, hit.value.total) == (4, 3, 4)
    with pytest.raises(OutOfPages, match="never fit"):
        manager.extend(lease, 100 * PAGE)
    assert (manager.stats(), list(lease.pages)) == before
    assert hits(manager, client(), range(8))[0] == 8
    manager.check_integrity()


class FailingAllocation:
    """Raises at the n-th page from now on; never when n is 0."""

    def __init__(self) -> None:
        self.nth = 0

    def __call__(self) -> None:
        if self.nth:
            self.nth -= 1
            if not self.nth:
                raise MemoryError("injected")


@pytest.mark.parametrize("nth", range(1, 7))
def test_a_failing_allocation_rolls_back(nth: int) -> None:
    """The call needs six pages: two that are free and four that are idle."""
    hook = FailingAllocation()
    manager = make_manager(8, allocation_hook=hook)
    cached = range(16)
    serve(manager, client(), cached)
    lease = run(manager, client(), range(100, 108))
    before = manager.stats(), list(lease.pages), list(manager._pool.idle)

    hook.nth = nth
    with pytest.raises(MemoryError, match="injected"):
        manager.extend(lease, 8 * PAGE)
    manager.check_integrity()
    assert (manager.stats(), list(lease.pages), list(manager._pool.idle)) == before
    assert hits(manager, client(), cached)[0] == 16

    manager.extend(lease, 8 * PAGE)
    assert sorted(lease.pages) == list(range(8))
    manager.check_integrity()


def test_lease_misuse_is_an_error() -> None:
    manager = make_manager()
    lease = run(manager, client(), range(8))
    with pytest.raises(LeaseError, match="cannot commit 7"):
        manager.commit(lease, range(8), 7)
    with pytest.raises(LeaseError, match="2 pages hold 8"):
        manager.commit(lease, range(9), 9)
    with pytest.raises(LeaseError, match="another cache"):
        make_manager().release(lease)
    manager.release(lease)
    for misuse in (
        lambda: manager.release(lease),
        lambda: manager.extend(lease, 9),
        lambda: manager.commit(lease, range(8), 8),
    ):
        with pytest.raises(LeaseError, match="was released"):
            misuse()
    manager.check_integrity()


def test_impossible_pools_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one page"):
        CacheManager(0, 16, 1000, 10)
    with pytest.raises(ValueError, match="cannot hold 3 LR slots"):
        CacheManager(4, 16, 100, 50, slots=3)
    with pytest.raises(ValueError, match="at least one token"):
        make_manager().admit(client(), [])
    with pytest.raises(ValueError, match="slots="):
        make_manager().admit(client(group_slots=(0, 3)), [1])
