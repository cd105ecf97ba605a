"""The record of one page."""

from __future__ import annotations

from lragent.cache.keys import KeyScope


class Page:
    """What the cache knows of one page; the numbers in it live in the engine's tensors.

    Attributes:
        id: index of the page in the pool.
        refs: leases that hold it.
        key: its key while it can be found by other requests, else None.
        tokens: its packed tokens while it has a key.
        scope: the scope it was published in while it has a key.
        valid: one bit a slot whose LR values are there for every token of the page.
    """

    __slots__ = ("id", "key", "refs", "scope", "tokens", "valid")

    def __init__(self, page_id: int) -> None:
        self.id = page_id
        self.refs = 0
        self.key: bytes | None = None
        self.tokens = b""
        self.scope: KeyScope | None = None
        self.valid = 0

    def publish(self, key: bytes, tokens: bytes, scope: KeyScope) -> None:
        """Give the page its identity; no slot is valid yet."""
        self.key, self.tokens, self.scope = key, tokens, scope

    def unpublish(self) -> None:
        """Take identity and validity bits away: the next holder must not inherit them."""
        self.key, self.tokens, self.scope, self.valid = None, b"", None, 0
