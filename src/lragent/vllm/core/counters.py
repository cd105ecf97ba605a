"""Counts of an engine's admissions, and why requests did not share."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from lragent.cache.client import CacheClient
from lragent.cache.keys import pack_tokens
from lragent.cache.sharing_reasons import SHORTER_THAN_PAGE, SeenPrompts
from lragent.sharing import TokenCounts
from lragent.vllm.core.turns import shareable


class Counters(TokenCounts):
    """Running sums of one engine; a request that is resumed after a preemption counts again."""

    def __init__(self, block_size: int):
        super().__init__()
        self._size = block_size
        self._seen = SeenPrompts()

    def count(self, request: Any, base: int, lr: int, reused: int) -> None:
        """A request was admitted with that many base, LR and reused tokens."""
        self.arrived(request.num_tokens)
        reads = request.lragent_binding.cache_client.needed_mask
        self.admitted(base, lr if reads else None, reused, None if base else self._why_not(request))

    def published(self, request: Any) -> None:
        """The first page of a request can be found from now on."""
        self._seen.record(_client(request), self._first_page(request))

    def _why_not(self, request: Any) -> str:
        if min(request.num_tokens, shareable(request)) < self._size:
            return SHORTER_THAN_PAGE
        return self._seen.explain(_client(request), self._first_page(request))

    def _first_page(self, request: Any) -> bytes:
        return pack_tokens(list(request.all_token_ids[: self._size]))


def _client(request: Any) -> CacheClient:
    """The request's client with its tenant, which vLLM hashes on its own."""
    client: CacheClient = request.lragent_binding.cache_client
    if not request.cache_salt:
        return client
    return replace(client, scope=replace(client.scope, tenant=request.cache_salt))
