"""Block hashes of prompts that came before: a prompt that extends one is hashed from there on.

A hand-over sends the whole conversation again, and hashing 2,048 blocks takes longer than finding
them.
"""

# pyright: reportMissingImports=false

from __future__ import annotations

import threading
from array import array
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

CHUNK = 16
"""Blocks that are known or unknown together."""

MOST = 8192
"""Chunks that are kept: some 30 MB with blocks of 16 tokens."""


class HashChains:
    """A tree of chunks of tokens with their blocks' hashes; safe to use from several threads.

    A chunk is found by the hash of the block before it and by its tokens, which are compared, the
    first one by everything else that enters vLLM's hashes: who shares the blocks, and the tenant.

    Args:
        stock: vLLM's hasher: all blocks of a request behind those whose hashes it has.
        block_size: tokens of a block.
        most: chunks that are kept; those that were not used for longest are dropped.
    """

    def __init__(self, stock: Callable[[Any], Any], block_size: int, most: int = MOST):
        self._stock = stock
        self._block_size = block_size
        self._most = most
        self._chunks: OrderedDict[Hashable, list[Any]] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._chunks)

    def hashes(self, request: Any) -> list[Any]:
        """What ``stock`` returns."""
        others = request.mm_features or request.prompt_embeds is not None
        if request.block_hashes or request.num_tokens < CHUNK * self._block_size or others:
            return self._stock(request)
        keys, found = self._find(request)
        request.block_hashes += found  # in place: vLLM extends this very list
        try:
            found += self._stock(request)
        finally:
            request.block_hashes.clear()
        self._keep(keys, found, request)
        return found

    def _find(self, request: Any) -> tuple[list[Hashable], list[Any]]:
        """Keys of the chunks that are known, and their hashes."""
        keys: list[Hashable] = []
        found: list[Any] = []
        with self._lock:
            while True:
                key = self._key(request, found, len(keys))
                known = None if key is None else self._chunks.get(key)
                if known is None:
                    return keys, found
                keys.append(key)
                found += known

    def _keep(self, keys: list[Hashable], hashes: list[Any], request: Any) -> None:
        with self._lock:
            while (key := self._key(request, hashes, len(keys))) is not None:
                first = len(keys) * CHUNK
                self._chunks[key] = hashes[first : first + CHUNK]
                keys.append(key)
            # A chunk is of no use without those before it.
            for key in reversed(keys):
                if key in self._chunks:
                    self._chunks.move_to_end(key)
            while len(self._chunks) > self._most:
                self._chunks.popitem(last=False)

    def _key(self, request: Any, hashes: list[Any], number: int) -> Hashable:
        """The key of a chunk, given all hashes before it; None where the tokens end."""
        tokens = CHUNK * self._block_size
        first, last = number * tokens, (number + 1) * tokens
        if last > request.num_tokens:
            return None
        parent = hashes[number * CHUNK - 1] if number else self._root(request)
        return parent, array("i", request.all_token_ids[first:last]).tobytes()

    def _root(self, request: Any) -> Hashable:
        from vllm.v1.core.kv_cache_utils import generate_block_hash_extra_keys

        return generate_block_hash_extra_keys(request, 0, self._block_size, 0)[0]
