"""Why a request reused nothing, as labels for operators' counters.

A label is given only when not a single page was reused. The first rule that holds gives it:

========================  ==========================================================================
``shorter_than_page``     the prompt (under ``neutral`` its context) does not fill one page
``evicted``               this scope published the prompt's first page; it was evicted or unloaded
``policy``                the same tenant has seen it under another sharer, and this client is
                          ``isolated``, so it shares with nobody
``digest``                the same tenant has seen it under another sharer, base model, dtype or
                          layout, and this client shares, but only within its own group
``salt``                  only other tenants have seen it
``not_seen``              nobody has, as far as the bounded memory here reaches
========================  ==========================================================================

"Seen" means that its first page was published. The memory holds the latest ``MAX_PROMPTS``
different first pages and for each the latest ``MAX_SCOPES`` scopes.
"""

from __future__ import annotations

from collections import OrderedDict

from lragent.cache.client import CacheClient
from lragent.cache.keys import KeyScope, packed_page_key

POLICY = "policy"
DIGEST = "digest"
SALT = "salt"
EVICTED = "evicted"
SHORTER_THAN_PAGE = "shorter_than_page"
NOT_SEEN = "not_seen"
REASONS = (POLICY, DIGEST, SALT, EVICTED, SHORTER_THAN_PAGE, NOT_SEEN)

MAX_PROMPTS = 4096
MAX_SCOPES = 16


def public_reason(reason: str | None) -> str | None:
    """The label a tenant may be shown: ``salt`` would tell it what other tenants have sent."""
    return NOT_SEEN if reason == SALT else reason


class SeenPrompts:
    """Remembers in which scopes a prompt's first page was published. Bounded."""

    def __init__(self, max_prompts: int = MAX_PROMPTS, max_scopes: int = MAX_SCOPES) -> None:
        self._max_prompts = max_prompts
        self._max_scopes = max_scopes
        self._seen: OrderedDict[bytes, OrderedDict[bytes, KeyScope]] = OrderedDict()

    def record(self, client: CacheClient, packed: bytes) -> None:
        """``client`` published a first page with these packed tokens."""
        content = packed_page_key(b"", packed)
        scopes = self._seen.setdefault(content, OrderedDict())
        self._seen.move_to_end(content)
        scopes[client.root] = client.scope
        scopes.move_to_end(client.root)
        if len(scopes) > self._max_scopes:
            scopes.popitem(last=False)
        if len(self._seen) > self._max_prompts:
            self._seen.popitem(last=False)

    def explain(self, client: CacheClient, packed: bytes) -> str:
        """The label for a prompt of at least one page that reused none."""
        scopes = self._seen.get(packed_page_key(b"", packed))
        if not scopes:
            return NOT_SEEN
        if client.root in scopes:
            return EVICTED
        if any(scope.tenant == client.scope.tenant for scope in scopes.values()):
            return DIGEST if client.shares else POLICY
        return SALT
