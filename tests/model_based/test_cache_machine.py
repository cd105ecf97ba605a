"""The cache against a plain reference with symbolic page contents, and proof that it can fail."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from tests.model_based.machine import CacheMachine

from lragent.cache import client as client_module
from lragent.cache.keys import KeyScope, root_key
from lragent.cache.lease import Lease
from lragent.cache.manager import CacheManager
from lragent.cache.page import Page
from lragent.cache.pool import HandedOut, PagePool
from lragent.cache.prefix_index import PrefixIndex

SETTINGS = settings(
    max_examples=200,
    stateful_step_count=50,
    deadline=None,
    database=None,
    derandomize="CI" in os.environ,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)

# What the runs have to meet, or their agreement would mean nothing.
EVENTS = (
    "isolated hit",
    "full hit",
    "base hit",
    "base+lr hit",
    "neutral hit",
    "private page filled",
    "miss",
    "lr behind base",
    "slot of a shared page filled",
    "page published by another first",
    "eviction",
    "out of pages",
    "failed allocation",
    "unload frees pages",
    "commit of a forgotten lease",
)


def test_cache_agrees_with_the_reference() -> None:
    CacheMachine.events.clear()
    run_state_machine_as_test(CacheMachine, settings=SETTINGS)
    rare = {
        event: CacheMachine.events[event] for event in EVENTS if CacheMachine.events[event] < 10
    }
    assert not rare, f"the runs prove little about these: {rare}"


def _bits_survive_reuse(patch: pytest.MonkeyPatch) -> None:
    def unpublish(page: Page) -> None:
        page.key, page.tokens, page.scope = None, b"", None

    patch.setattr(Page, "unpublish", unpublish)
    _blind_integrity(patch)


def _one_page_too_many(patch: pytest.MonkeyPatch) -> None:
    match = PrefixIndex.match

    def greedy(index: PrefixIndex, root: bytes, tokens: Sequence[int]) -> list[Page]:
        pages = match(index, root, tokens)
        if pages and len(pages) < len(tokens) // index._page_size:
            others = [page for _, page in index.items() if page not in pages]
            pages += others[:1]
        return pages

    patch.setattr(PrefixIndex, "match", greedy)
    _blind_integrity(patch)


def _key_without(patch: pytest.MonkeyPatch, field: str) -> None:
    def poor_root_key(scope: KeyScope) -> bytes:
        return root_key(replace(scope, **{field: ""}))

    patch.setattr(client_module, "root_key", poor_root_key)
    _blind_integrity(patch)


def _leased_pages_are_evicted(patch: pytest.MonkeyPatch) -> None:
    def lease(pool: PagePool, page: Page) -> None:
        page.refs += 1  # and stays among the idle

    patch.setattr(PagePool, "lease", lease)
    _blind_integrity(patch)


def _bits_of_a_skipped_page(patch: pytest.MonkeyPatch) -> None:
    commit = CacheManager.commit

    def early(manager: CacheManager, lease: Lease, tokens: Sequence[int], computed: int) -> None:
        commit(manager, lease, tokens, computed)
        for page_id in lease.pages[: lease.base_tokens // manager.page_size]:
            page = manager._pool.pages[page_id]
            page.valid |= lease.client.filled_mask if page.key is not None else 0

    patch.setattr(CacheManager, "commit", early)


def _disturbed_order(patch: pytest.MonkeyPatch) -> None:
    hand_out = PagePool.hand_out

    def leaky(pool: PagePool, count: int, after: int | None = None) -> HandedOut:
        try:
            return hand_out(pool, count, after)
        except Exception:
            if pool.idle:
                pool.idle.move_to_end(next(iter(pool.idle)))
            raise

    patch.setattr(PagePool, "hand_out", leaky)


def _turn_pages_are_published(patch: pytest.MonkeyPatch) -> None:
    commit = CacheManager.commit

    def all_public(
        manager: CacheManager, lease: Lease, tokens: Sequence[int], computed: int
    ) -> None:
        lease.shareable = None
        commit(manager, lease, tokens, computed)

    patch.setattr(CacheManager, "commit", all_public)


def _blind_integrity(patch: pytest.MonkeyPatch) -> None:
    """Leave it to the contents: the books alone must not be what catches the mutant."""
    patch.setattr(CacheManager, "check_integrity", lambda manager: None)


# Each mutant with the words of the check that has to catch it.
MUTANTS: dict[str, tuple[Callable[[pytest.MonkeyPatch], None], str]] = {
    "bits-survive-reuse": (_bits_survive_reuse, "validity bits of page"),
    "one-page-too-many": (_one_page_too_many, "wants .* reads|may not read|of .* reads"),
    "key-without-digest": (lambda patch: _key_without(patch, "sharer"), "may not read"),
    "key-without-tenant": (lambda patch: _key_without(patch, "tenant"), "of .* reads"),
    "leased-pages-are-evicted": (_leased_pages_are_evicted, "stats.pages|handed out|left traces"),
    "bits-before-the-page-is-written": (_bits_of_a_skipped_page, "validity bits of page"),
    "turn-pages-are-published": (_turn_pages_are_published, "published or not"),
    "failed-allocation-disturbs-the-order": (_disturbed_order, "left traces"),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_machine_catches(mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plant, caught_by = MUTANTS[mutant]
    plant(monkeypatch)
    quick = settings(
        SETTINGS, derandomize=True, phases=[Phase.generate], report_multiple_bugs=False
    )
    with pytest.raises(AssertionError, match=caught_by):
        run_state_machine_as_test(CacheMachine, settings=quick)
