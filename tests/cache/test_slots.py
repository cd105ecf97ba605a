"""Validity bits: who fills which slot of shared pages, and what the next agent finds."""

from __future__ import annotations

from tests.cache.helpers import PAGE, client, hits, make_manager, run, serve

from lragent.cache import CacheManager
from lragent.sharing import Policy

PROMPT = list(range(12))
MORE = [*PROMPT, 1, 2]


def bits(manager: CacheManager, pages: list[int]) -> list[int]:
    return [manager._pool.pages[page].valid for page in pages]


def test_base_lr_fills_every_slot_of_the_group() -> None:
    manager = make_manager()
    pages = serve(manager, client(Policy.BASE_LR, 0), PROMPT)
    assert bits(manager, pages) == [0b11] * 3
    assert hits(manager, client(Policy.BASE_LR, 1), MORE) == (12, 12, 12)


def test_isolated_fills_only_its_own_slot_and_full_none() -> None:
    manager = make_manager()
    assert bits(manager, serve(manager, client(Policy.ISOLATED, 1), PROMPT)) == [0b10] * 3
    assert bits(manager, serve(manager, client(Policy.FULL, None), PROMPT)) == [0] * 3
    assert hits(manager, client(Policy.FULL, None), MORE) == (12, 12, 12)


def test_base_shares_the_base_and_each_agent_fills_its_slot() -> None:
    manager = make_manager()
    first, second = client(Policy.BASE, 0), client(Policy.BASE, 1)
    pages = serve(manager, first, PROMPT)
    assert hits(manager, first, MORE) == (12, 12, 12)
    assert hits(manager, second, MORE) == (12, 0, 0)

    assert serve(manager, second, PROMPT) == pages
    assert bits(manager, pages) == [0b11] * 3
    assert hits(manager, second, MORE) == (12, 12, 12)
    assert hits(manager, client(Policy.BASE, 2, (0, 1, 2)), MORE) == (12, 0, 0)


def test_bits_are_set_when_the_last_token_of_a_page_is_recomputed() -> None:
    manager = make_manager()
    pages = serve(manager, client(Policy.BASE, 0), PROMPT)
    lease = manager.admit(client(Policy.BASE, 1), MORE)
    manager.extend(lease, len(MORE))
    seen = []
    for computed in range(1, len(MORE) + 1):
        manager.commit(lease, MORE, computed)
        seen.append(bits(manager, pages).count(0b11))
    assert seen == [t // PAGE for t in range(1, 13)] + [3, 3]


def test_an_aborted_recomputation_leaves_the_bits_of_the_pages_it_finished() -> None:
    manager = make_manager()
    serve(manager, client(Policy.BASE, 0), PROMPT)
    second = client(Policy.BASE, 1)
    lease = manager.admit(second, PROMPT)
    manager.commit(lease, PROMPT, 6)
    manager.release(lease)
    assert hits(manager, second, PROMPT) == (12, 4, 4)
    lease = manager.admit(second, PROMPT)
    manager.commit(lease, PROMPT, 12)
    manager.release(lease)
    assert hits(manager, second, PROMPT) == (12, 12, 11)


def test_two_leases_may_fill_one_slot_of_one_page() -> None:
    manager = make_manager()
    pages = serve(manager, client(Policy.BASE, 0), PROMPT)
    second = client(Policy.BASE, 1)
    one, two = manager.admit(second, PROMPT), manager.admit(second, PROMPT)
    manager.commit(one, PROMPT, 6)
    manager.commit(two, PROMPT, 12)
    assert bits(manager, pages) == [0b11] * 3
    manager.commit(one, PROMPT, 12)
    assert bits(manager, pages) == [0b11] * 3
    manager.release(one)
    manager.release(two)
    manager.check_integrity()


def test_an_adapter_without_cached_lora_needs_no_slot() -> None:
    manager = make_manager()
    plain = client(Policy.BASE, None)
    pages = serve(manager, plain, PROMPT)
    assert bits(manager, pages) == [0] * 3
    assert hits(manager, plain, MORE) == (12, 12, 12)
    assert hits(manager, client(Policy.BASE, 0), MORE) == (12, 0, 0)


def test_bits_die_with_the_page() -> None:
    manager = make_manager(3)
    pages = serve(manager, client(Policy.BASE_LR), PROMPT)
    assert bits(manager, pages) == [0b11] * 3
    lease = manager.admit(client(Policy.BASE, 1, sharer="other"), range(50, 62))
    manager.extend(lease, 12)
    assert sorted(lease.pages) == sorted(pages)
    assert bits(manager, pages) == [0] * 3
    manager.commit(lease, range(50, 62), 12)
    assert bits(manager, pages) == [0b10] * 3


def test_a_fully_cached_prompt_recomputes_its_last_token_and_rewrites_nothing() -> None:
    manager = make_manager()
    pages = serve(manager, client(), PROMPT)
    lease = run(manager, client(), PROMPT)
    assert lease.pages == pages
    assert (lease.base_tokens, lease.lr_tokens, lease.computed_tokens) == (12, 12, 11)
    assert manager.stats().pages_used == 3


def test_the_first_to_publish_wins_and_the_others_page_stays_private() -> None:
    manager = make_manager()
    one, two = manager.admit(client(slot=0), PROMPT), manager.admit(client(slot=1), PROMPT)
    for lease in (one, two):
        manager.extend(lease, 12)
        manager.commit(lease, PROMPT, 12)
    assert not set(one.pages) & set(two.pages)
    assert bits(manager, two.pages) == [0] * 3
    winner, loser = list(one.pages), list(two.pages)
    manager.release(one)
    manager.release(two)
    assert manager.stats().pages_idle == 3
    third = manager.admit(client(), MORE)
    assert third.pages == winner
    assert all(manager._pool.is_free(page) for page in loser)


def test_uncommitted_and_partial_pages_are_not_found() -> None:
    manager = make_manager()
    lease = manager.admit(client(), PROMPT)
    manager.extend(lease, 12)
    assert hits(manager, client(), MORE)[0] == 0
    manager.commit(lease, PROMPT, 7)
    assert hits(manager, client(), MORE)[0] == 4
    manager.commit(lease, PROMPT, 8)
    assert hits(manager, client(), MORE)[0] == 8
    manager.release(lease)
    assert hits(manager, client(), MORE)[0] == 8
    assert manager.stats().pages_free == 14


def test_generated_tokens_are_shared_like_prompt_tokens() -> None:
    manager = make_manager()
    tokens = list(range(6))
    lease = run(manager, client(slot=0), tokens)
    for new in range(6, 13):
        tokens.append(new)
        manager.extend(lease, len(tokens))
        manager.commit(lease, tokens, len(tokens))
    assert hits(manager, client(slot=1), [*tokens, 99]) == (12, 12, 12)


def test_a_slot_that_came_later_is_filled_only_where_whole_pages_are_run() -> None:
    """A member with an A of its own joins: the others' bits stay, and none is set too early."""
    manager = make_manager()
    pages = serve(manager, client(Policy.BASE_LR, 0, (0,)), PROMPT)
    assert serve(manager, client(Policy.BASE_LR, 0, (0, 1)), PROMPT) == pages
    assert bits(manager, pages) == [0b01] * 3  # of the last page only the last token was run

    newcomer = client(Policy.BASE_LR, 1, (0, 1))
    lease = manager.admit(newcomer, PROMPT)
    assert (lease.base_tokens, lease.lr_tokens, lease.fill_from) == (12, 0, (12, 0))
    manager.commit(lease, PROMPT, 5)
    assert bits(manager, pages) == [0b11, 0b01, 0b01]
    manager.commit(lease, PROMPT, 12)
    manager.release(lease)
    assert bits(manager, pages) == [0b11] * 3
    assert hits(manager, client(Policy.BASE_LR, 0, (0, 1)), MORE) == (12, 12, 12)
