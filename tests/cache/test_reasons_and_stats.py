from __future__ import annotations

from tests.cache.helpers import client, make_manager, run, serve

from lragent.cache import REASONS, CacheClient, CacheManager, public_reason
from lragent.cache.sharing_reasons import SeenPrompts
from lragent.sharing import Policy

PROMPT = list(range(12))


def reason(manager: CacheManager, who: CacheClient, tokens: list[int]) -> str | None:
    lease = manager.admit(who, tokens)
    manager.release(lease)
    return lease.not_shared


def test_every_reason() -> None:
    manager = make_manager(6)
    plan = client(sharer="first weights")
    assert reason(manager, plan, [1, 2, 3]) == "shorter_than_page"
    assert reason(manager, plan, PROMPT) == "not_seen"
    serve(manager, plan, PROMPT)
    assert reason(manager, plan, PROMPT) is None
    assert reason(manager, plan, [*PROMPT[:4], 9, 9, 9, 9]) is None  # one page was reused
    assert reason(manager, client(sharer="other weights"), PROMPT) == "digest"
    assert reason(manager, client(Policy.ISOLATED, sharer="alone"), PROMPT) == "policy"
    assert reason(manager, client(sharer="first weights", tenant="red"), PROMPT) == "salt"
    serve(manager, plan, list(range(100, 124)))
    assert reason(manager, plan, PROMPT) == "evicted"


def test_unloaded_pages_count_as_evicted() -> None:
    manager = make_manager()
    serve(manager, client(), PROMPT)
    manager.forget("group")
    assert reason(manager, client(), PROMPT) == "evicted"


def test_a_tenant_is_not_told_what_others_have_sent() -> None:
    assert [public_reason(label) for label in REASONS if public_reason(label) == label] == [
        label for label in REASONS if label != "salt"
    ]
    assert public_reason("salt") == "not_seen"
    assert public_reason(None) is None


def test_the_memory_of_prompts_is_bounded() -> None:
    seen = SeenPrompts(max_prompts=2, max_scopes=2)
    for prompt in (b"a", b"b", b"c"):
        for tenant in ("x", "y", "z"):
            seen.record(client(tenant=tenant), prompt)
    assert seen.explain(client(tenant="z"), b"a") == "not_seen"
    assert seen.explain(client(tenant="z"), b"c") == "evicted"
    assert seen.explain(client(tenant="x"), b"c") == "salt"


def test_bytes_by_kind() -> None:
    manager = make_manager(16)  # pages of 1000 bytes with three LR slots of 100
    lease = run(manager, client(Policy.BASE_LR, 0, (0, 1)), [*PROMPT, 1])
    serve(manager, client(Policy.FULL, None), PROMPT)
    stats = manager.stats()
    assert (stats.pages_leased, stats.pages_idle, stats.pages_free) == (4, 3, 9)
    assert stats.pages_used == manager.used_pages == 7
    assert (stats.base_bytes, stats.lr_bytes, stats.used_bytes) == (4900, 2100, 7000)
    manager.release(lease)
    assert manager.stats().pages_idle == 6


def test_a_snapshot_does_not_change_later() -> None:
    manager = make_manager()
    before = manager.stats()
    serve(manager, client(), PROMPT)
    assert (before.pages_idle, before.used_bytes) == (0, 0)
