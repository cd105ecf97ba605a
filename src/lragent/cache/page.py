"""The record of one page."""

from __future__ import annotations

from typing import NamedTuple

from lragent.cache.keys import KeyScope


class CachedPage(NamedTuple):
    """A page that later requests can find, for people.

    Attributes:
        users: adapters (None is the base model) whose requests wrote or read it; the first wrote.
        slots: LR slots that are valid.
    """

    users: tuple[str | None, ...]
    slots: tuple[int, ...]


class Page:
    """What the cache knows of one page; the numbers in it live in the engine's tensors.

    Attributes:
        id: index of the page in the pool.
        refs: leases that hold it.
        key: its key while it can be found by other requests, else None.
        tokens: its packed tokens while it has a key.
        scope: the scope it was published in while it has a key.
        valid: one bit a slot whose LR values are there for every token of the page.
        users: names of the clients that wrote or read it while it has a key, its writer first.
    """

    __slots__ = ("id", "key", "refs", "scope", "tokens", "users", "valid")

    def __init__(self, page_id: int) -> None:
        self.id = page_id
        self.refs = 0
        self.key: bytes | None = None
        self.tokens = b""
        self.scope: KeyScope | None = None
        self.valid = 0
        self.users: list[str | None] = []

    def publish(self, key: bytes, tokens: bytes, scope: KeyScope, writer: str | None) -> None:
        """Give the page its identity; no slot is valid yet."""
        self.key, self.tokens, self.scope, self.users = key, tokens, scope, [writer]

    def unpublish(self) -> None:
        """Take identity and validity bits away: the next holder must not inherit them."""
        self.key, self.tokens, self.scope, self.valid, self.users = None, b"", None, 0, []
