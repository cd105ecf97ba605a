"""Page keys: SHA-256 over typed, length-framed fields.

A key says everything that decides what a page holds, and nothing else: no adapter name, no small
integer that is given out anew after a reload. Each field is framed as one type byte, its length in
eight bytes (little-endian) and its bytes, so no two different field lists have one encoding.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass

SCHEMA_VERSION = 1


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
    """

    base_model: str
    dtype: str
    layout: str
    tenant: str
    sharer: str


def frame_text(text: str) -> bytes:
    """Frame ``text`` as UTF-8 under the type byte ``s``."""
    return _frame(b"s", text.encode("utf-8", "surrogatepass"))


def frame_bytes(data: bytes) -> bytes:
    """Frame raw bytes under the type byte ``b``."""
    return _frame(b"b", data)


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
    fields = (scope.base_model, scope.dtype, scope.layout, scope.tenant, scope.sharer)
    return hashlib.sha256(_ROOT + b"".join(map(frame_text, fields))).digest()


def page_key(parent: bytes, tokens: Sequence[int]) -> bytes:
    """The key (32 bytes) of the page that holds ``tokens`` after the page with key ``parent``."""
    return packed_page_key(parent, pack_tokens(tokens))


def packed_page_key(parent: bytes, packed: bytes) -> bytes:
    """``page_key`` for tokens that ``pack_tokens`` has packed already."""
    return hashlib.sha256(_PAGE + frame_bytes(parent) + _frame(b"t", packed)).digest()


def _frame(kind: bytes, data: bytes) -> bytes:
    return kind + len(data).to_bytes(8, "little") + data


_VERSION = _frame(b"u", SCHEMA_VERSION.to_bytes(8, "little"))
_ROOT = frame_text("lragent.cache.root") + _VERSION
_PAGE = frame_text("lragent.cache.page") + _VERSION
