"""vLLM's block hashes with contents in place of adapter names."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from lragent.vllm.core.hash_chains import HashChains
from lragent.vllm.core.turns import shareable

ATTRIBUTE = "lragent_binding"


def lora_keys(stock: Callable[[Any], list[Any]]) -> Callable[[Any], list[Any]]:
    """Wraps vLLM's ``_gen_lora_extra_hash_keys``: the binding's key where there is a binding.

    It is called for every page of every request. The tag keeps it apart from a tenant's salt of
    the same text, which vLLM before 0.31 hashes as it stands.
    """

    @functools.wraps(stock)
    def keys(request: Any) -> list[Any]:
        binding = getattr(request, ATTRIBUTE, None)
        if binding is None:
            return stock(request)
        return [("lora", key) for key in binding.keys]

    return keys


def stored_events(stock: Any) -> Any:
    """Wraps the pool's ``_build_block_stored_event``: who can find the blocks, by names.

    vLLM names the adapter that wrote them. A router that looks for blocks by that name would send
    the other members of a group elsewhere.
    """

    @functools.wraps(stock)
    def build(self: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
        event = stock(self, request, *args, **kwargs)
        binding = getattr(request, ATTRIBUTE, None)
        if binding is not None:
            event.lora_id, event.lora_name = None, binding.shared_as
            plain = {("lora", key): key for key in binding.keys}  # as vLLM since 0.31 does itself
            event.extra_keys = [
                keys and tuple(plain.get(key, key) for key in keys)
                for keys in event.extra_keys or ()
            ]
        return event

    return build


def binding_hasher(
    stock: Callable[[Any], Any], binding_of: Callable[[Any], Any], block_size: int
) -> Callable[[Any], Any]:
    """Wraps an engine's request hasher: a request has its binding before it is first hashed.

    Blocks that nobody else may read get no hash.

    Args:
        stock: vLLM's hasher.
        binding_of: the binding of a request that has none yet.
        block_size: tokens of a hash.
    """
    chains = HashChains(stock, block_size)

    def hasher(request: Any) -> Any:
        if not hasattr(request, ATTRIBUTE):
            setattr(request, ATTRIBUTE, binding_of(request))
        left = shareable(request) // block_size - len(request.block_hashes)
        return chains.hashes(request)[:left] if left > 0 else []

    return hasher
