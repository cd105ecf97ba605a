from __future__ import annotations

from tests.cache.helpers import client, make_manager

from lragent.cache import CacheClient, CacheManager
from lragent.sharing import Policy, TokenCounts

PROMPT = list(range(12))


def serve(manager: CacheManager, counts: TokenCounts, who: CacheClient, tokens: list[int]) -> None:
    counts.arrived(len(tokens))
    lease = manager.admit(who, tokens)
    lr = lease.lr_tokens if who.needed_mask else None
    counts.admitted(lease.base_tokens, lr, lease.computed_tokens, lease.not_shared)
    manager.extend(lease, len(tokens))
    manager.commit(lease, tokens, len(tokens))
    manager.release(lease)


def test_tokens_by_kind() -> None:
    manager, counts = make_manager(), TokenCounts()
    tokens = [*PROMPT, 1, 2]
    serve(manager, counts, client(Policy.BASE, 0), PROMPT)
    serve(manager, counts, client(Policy.BASE, 1), tokens)
    serve(manager, counts, client(Policy.BASE, 1), tokens)
    serve(manager, counts, client(Policy.BASE, None), tokens)
    assert counts.requests == 4
    assert counts.prompt_tokens == 12 + 3 * 14
    assert counts.base_hit_tokens == 3 * 12
    assert counts.lr_hit_tokens == 12
    assert counts.reused_tokens == 2 * 12
    assert counts.recomputed_tokens == 12
    assert counts.not_shared == {"not_seen": 1}
