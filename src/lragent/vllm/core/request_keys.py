"""vLLM's block hashes with contents in place of adapter names."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

ATTRIBUTE = "lragent_binding"


def lora_keys(stock: Callable[[Any], list[str]]) -> Callable[[Any], list[str]]:
    """Wraps vLLM's ``_gen_lora_extra_hash_keys``: the binding's key where there is a binding.

    It is called for every page of every request.
    """

    @functools.wraps(stock)
    def keys(request: Any) -> list[str]:
        binding = getattr(request, ATTRIBUTE, None)
        if binding is None:
            return stock(request)
        return binding.keys

    return keys


def binding_hasher(
    stock: Callable[[Any], Any], binding_of: Callable[[Any], Any]
) -> Callable[[Any], Any]:
    """Wraps an engine's request hasher: a request has its binding before it is first hashed."""

    def hasher(request: Any) -> Any:
        if not hasattr(request, ATTRIBUTE):
            setattr(request, ATTRIBUTE, binding_of(request))
        return stock(request)

    return hasher
