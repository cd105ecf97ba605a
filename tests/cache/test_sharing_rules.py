"""Who may read whose pages. Every "never" has a positive control beside it."""

from __future__ import annotations

import pytest
from tests.cache.helpers import PAGE, client, hits, make_manager, scope, serve

from lragent.cache import CacheClient
from lragent.cache.keys import pack_tokens
from lragent.sharing import Policy

PROMPT = list(range(10, 22))
MORE = [*PROMPT, 1, 2]


def isolated(digest: str, tenant: str = "") -> CacheClient:
    return client(Policy.ISOLATED, 0, (0,), sharer=digest, tenant=tenant)


@pytest.mark.parametrize("policy", list(Policy))
def test_same_weights_hit_and_other_weights_under_the_name_miss(policy: Policy) -> None:
    """The cache never learns a name: after a reload only the digest differs."""
    slot = None if policy is Policy.FULL else 0
    manager = make_manager()
    serve(manager, client(policy, slot, sharer="digest of plan, first weights"), PROMPT)
    reloaded = client(policy, slot, sharer="digest of plan, other weights")
    assert hits(manager, reloaded, MORE) == (0, 0, 0)
    again = client(policy, slot, sharer="digest of plan, first weights")
    assert hits(manager, again, MORE) == (12, 12, 12)


@pytest.mark.parametrize("policy", list(Policy))
def test_two_tenants_never_share(policy: Policy) -> None:
    slot = None if policy is Policy.FULL else 0
    manager = make_manager()
    serve(manager, client(policy, slot, tenant="red"), PROMPT)
    assert hits(manager, client(policy, slot, tenant="blue"), MORE) == (0, 0, 0)
    assert hits(manager, client(policy, slot), MORE) == (0, 0, 0)
    assert hits(manager, client(policy, slot, tenant="red"), MORE) == (12, 12, 12)


def test_a_tenant_named_like_an_adapter_is_still_a_tenant() -> None:
    manager = make_manager()
    serve(manager, isolated("plan", tenant=""), PROMPT)
    assert hits(manager, isolated("", tenant="plan"), MORE) == (0, 0, 0)
    assert hits(manager, isolated("plan", tenant=""), MORE) == (12, 12, 12)


def test_base_model_reads_an_adapters_pages_only_as_a_member_of_its_group() -> None:
    manager = make_manager()
    serve(manager, client(Policy.BASE), PROMPT)
    alone = client(Policy.ISOLATED, None, sharer="base-model")
    member = client(Policy.BASE, None)
    assert hits(manager, alone, MORE) == (0, 0, 0)
    assert hits(manager, member, MORE) == (12, 12, 12)


def test_isolated_adapters_do_not_share() -> None:
    manager = make_manager()
    serve(manager, isolated("plan"), PROMPT)
    assert hits(manager, isolated("act"), MORE) == (0, 0, 0)
    assert hits(manager, isolated("plan"), MORE) == (12, 12, 12)


@pytest.mark.parametrize("field", ["base_model", "dtype", "layout"])
def test_other_model_dtype_or_layout_misses(field: str) -> None:
    manager = make_manager()
    serve(manager, client(), PROMPT)
    other = CacheClient(scope(**{field: "other"}), 0, (0, 1), True)
    assert hits(manager, other, MORE) == (0, 0, 0)
    assert hits(manager, client(), MORE) == (12, 12, 12)


def test_only_the_common_prefix_is_shared() -> None:
    manager = make_manager()
    serve(manager, client(), PROMPT)
    assert hits(manager, client(), [*PROMPT[:7], 99, *PROMPT[8:]]) == (4, 4, 4)
    assert hits(manager, client(), [99, *PROMPT[1:]]) == (0, 0, 0)
    assert hits(manager, client(), PROMPT[4:]) == (0, 0, 0)


def test_a_key_collision_is_found_by_comparing_the_tokens() -> None:
    manager = make_manager()
    serve(manager, client(), PROMPT)
    assert hits(manager, client(), PROMPT) == (12, 12, 11)
    _, second = list(manager._index.items())[:2]
    second[1].tokens = pack_tokens([0] * PAGE)
    assert hits(manager, client(), PROMPT) == (4, 4, 4)
