"""Page keys: a `ContentHash` of everything that decides what a page holds.

And of nothing else: no adapter name, no small integer that is given out anew after a reload.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from lragent.content_hash import ContentHash

SCHEMA_VERSION = 2


@dataclass(frozen=True)
class KeyScope:
    """What the pages of a request have in common before any token is looked at.

    Attributes:
        base_model: hex digest of the base model (its config and weight index).
        dtype: element type of the cache, e.g. ``"bfloat16"``.
        layout: ``PageLayout.describe()``.
        tenant: trust domain (``cache_salt``); ``""`` when none is given.
        sharer: who may share: the group's digest, an isolated adapter's content digest, or
            ``"base-model"``.
        policy: name of the sharing policy; it decides whether V holds an adapter's term.
    """

    base_model: str
    dtype: str
    layout: str
    tenant: str
    sharer: str
    policy: str


def pack_tokens(tokens: Sequence[int]) -> bytes:
    """Token ids as little-endian int64, eight bytes each.

    Raises:
        ValueError: an element is not an integer of at most 64 bits.
    """
    try:
        return struct.pack(f"<{len(tokens)}q", *tokens)
    except struct.error as error:
        raise ValueError(f"tokens must be integers of at most 64 bits: {error}") from error


def root_key(scope: KeyScope) -> bytes:
    """The key (32 bytes) that the first page of every sequence in ``scope`` chains to."""
    content = ContentHash("page-root", SCHEMA_VERSION)
    for field in (scope.base_model, scope.dtype, scope.layout, scope.tenant, scope.sharer,
                  scope.policy):  # fmt: skip
        content.text(field)
    return content.digest()


def page_key(parent: bytes, tokens: Sequence[int]) -> bytes:
    """The key (32 bytes) of the page that holds ``tokens`` after the page with key ``parent``."""
    return packed_page_key(parent, pack_tokens(tokens))


def packed_page_key(parent: bytes, packed: bytes) -> bytes:
    """``page_key`` for tokens that ``pack_tokens`` has packed already."""
    return _PAGE.copy().field(b"b", parent).field(b"t", packed).digest()


_PAGE = ContentHash("page", SCHEMA_VERSION)
