"""Unloading: a sharer's pages are dropped, running requests finish."""

from __future__ import annotations

from tests.cache.helpers import client, hits, make_manager, run, serve

PROMPT = list(range(12))
MORE = [*PROMPT, 1, 2]


def test_idle_pages_of_the_sharer_are_free_and_those_of_others_stay() -> None:
    manager = make_manager()
    serve(manager, client(sharer="gone"), PROMPT)
    serve(manager, client(sharer="stays"), PROMPT)
    assert manager.forget("gone") == (3, 3000)
    manager.check_integrity()
    assert manager.stats().pages_idle == 3
    assert hits(manager, client(sharer="gone"), MORE)[0] == 0
    assert hits(manager, client(sharer="stays"), MORE)[0] == 12
    assert manager.forget("gone") == (0, 0)


def test_one_tenant_can_be_forgotten_alone() -> None:
    manager = make_manager()
    for tenant in ("red", "blue", ""):
        serve(manager, client(tenant=tenant), PROMPT)
    assert manager.forget("group", "red").pages == 3
    assert hits(manager, client(tenant="red"), MORE)[0] == 0
    assert hits(manager, client(tenant="blue"), MORE)[0] == 12
    assert manager.forget("group", "").pages == 3
    assert hits(manager, client(tenant="blue"), MORE)[0] == 12
    assert manager.forget("group").pages == 3


def test_a_running_lease_goes_on_privately() -> None:
    manager = make_manager()
    lease = run(manager, client(), PROMPT)
    assert manager.forget("group") == (0, 0)
    assert hits(manager, client(), MORE)[0] == 0
    tokens = [*PROMPT, 1, 2, 3, 4]
    manager.extend(lease, 16)
    manager.commit(lease, tokens, 16)
    manager.check_integrity()
    assert hits(manager, client(), [*tokens, 5])[0] == 0
    manager.release(lease)
    assert manager.stats().pages_free == manager.num_pages
    manager.check_integrity()


def test_the_same_weights_may_be_loaded_again_beside_the_old_lease() -> None:
    manager = make_manager()
    old = run(manager, client(), PROMPT)
    manager.forget("group")
    new = run(manager, client(), PROMPT)
    assert not set(old.pages) & set(new.pages)
    assert hits(manager, client(), MORE)[0] == 12
    manager.release(old)
    manager.release(new)
    assert manager.stats().pages_idle == 3
    manager.check_integrity()
