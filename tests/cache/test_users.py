"""Who wrote and read a page, and what the cache would take if nobody shared."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.cache.helpers import PAGE, client, make_manager, serve

from lragent.cache import CachedPage, IntegrityError
from lragent.sharing import Policy

PROMPT = tuple(range(2 * PAGE))
NAMES = ((0, "plan"), (1, "act"))


def test_readers_are_noted_behind_the_writer():
    manager = make_manager()
    plan, act = (replace(client(Policy.BASE, slot), name=name) for slot, name in NAMES)
    serve(manager, plan, PROMPT)
    assert manager.look_up(act, PROMPT) == [CachedPage(("plan",), (0,))] * 2
    for _ in range(2):
        serve(manager, act, (*PROMPT, 9))
    # the last page's slot too, since its last token was run for the token behind it
    assert manager.look_up(plan, PROMPT) == [CachedPage(("plan", "act"), (0, 1))] * 2
    stats = manager.stats()
    assert (stats.pages_used, stats.pages_found, stats.pages_alone) == (2, 2, 4)
    assert stats.valid_slots == 4


def test_users_go_with_the_page():
    manager = make_manager(num_pages=2)
    plan, act = (replace(client(slot=slot), name=name) for slot, name in NAMES)
    serve(manager, plan, PROMPT)
    serve(manager, act, PROMPT)
    serve(manager, act, tuple(range(50, 50 + 2 * PAGE)))  # evicts both
    assert manager.look_up(act, PROMPT) == []
    assert (manager.stats().pages_alone, manager.stats().valid_slots) == (2, 4)


def test_looking_up_is_no_use():
    manager = make_manager()
    serve(manager, replace(client(), name="plan"), PROMPT)
    before = manager.stats()
    manager.look_up(replace(client(slot=1), name="act"), PROMPT)
    assert manager.stats() == before
    assert manager.look_up(client(tenant="other"), PROMPT) == []


def test_wrong_counts_are_found():
    manager = make_manager()
    serve(manager, client(), PROMPT)
    manager._valid_slots += 1
    with pytest.raises(IntegrityError, match="valid slots"):
        manager.check_integrity()
