"""Counts of hits, of recomputed tokens, and of why requests did not share."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

from lragent.cache.keys import pack_tokens
from lragent.cache.sharing_reasons import SHORTER_THAN_PAGE, SeenPrompts
from lragent.vllm.core.bindings import Binding


class Counters:
    """Running totals of one engine.

    Attributes:
        requests: admissions, resumed requests included.
        prompt_tokens: their tokens.
        base_hit_tokens: tokens whose K and V_base were cached.
        lr_hit_tokens: tokens whose LR slot was valid too, of requests that read a slot.
        reused_tokens: tokens that needed no computation.
        recomputed_tokens: tokens run again although their K and V_base were cached.
        not_shared: admissions that reused no page, by reason (`lragent.cache.sharing_reasons`).
    """

    def __init__(self, block_size: int):
        self._size = block_size
        self._seen = SeenPrompts()
        self.requests = 0
        self.prompt_tokens = 0
        self.base_hit_tokens = 0
        self.lr_hit_tokens = 0
        self.reused_tokens = 0
        self.recomputed_tokens = 0
        self.not_shared: Counter[str] = Counter()

    def admitted(self, request: Any, base: int, lr: int, computed: int) -> None:
        """A request was admitted with that many base, LR and reused tokens."""
        binding: Binding = request.lragent_binding
        self.requests += 1
        self.prompt_tokens += request.num_tokens
        self.base_hit_tokens += base
        self.lr_hit_tokens += lr if binding.client.needed_mask else 0
        self.reused_tokens += computed
        self.recomputed_tokens += base - computed
        if not base:
            self.not_shared[self._why_not(request)] += 1

    def published(self, request: Any) -> None:
        """The first page of a request can be found from now on."""
        self._seen.record(_client(request), self._first_page(request))

    def _why_not(self, request: Any) -> str:
        if request.num_tokens < self._size:
            return SHORTER_THAN_PAGE
        return self._seen.explain(_client(request), self._first_page(request))

    def _first_page(self, request: Any) -> bytes:
        return pack_tokens(list(request.all_token_ids[: self._size]))


def _client(request: Any) -> Any:
    """The request's client with its tenant, which vLLM hashes on its own."""
    client = request.lragent_binding.client
    if not request.cache_salt:
        return client
    return replace(client, scope=replace(client.scope, tenant=request.cache_salt))
