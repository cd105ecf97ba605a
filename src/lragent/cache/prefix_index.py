"""Finds the pages of a prompt's longest cached prefix."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lragent.cache.keys import KeyScope, pack_tokens, packed_page_key
from lragent.cache.page import Page


class PrefixIndex:
    """Published pages by key. Keys chain, so a flat dictionary holds the whole prefix tree."""

    def __init__(self, page_size: int) -> None:
        self._page_size = page_size
        self._page_of: dict[bytes, Page] = {}

    def __len__(self) -> int:
        return len(self._page_of)

    def items(self) -> Iterator[tuple[bytes, Page]]:
        """Every key with its page."""
        return iter(self._page_of.items())

    def match(self, root: bytes, tokens: Sequence[int]) -> list[Page]:
        """The pages of the longest prefix of ``tokens``, in whole pages, that chains to ``root``.

        A page counts only if its tokens are equal too, not just its key.
        """
        found: list[Page] = []
        size, parent = self._page_size, root
        for start in range(0, len(tokens) - size + 1, size):
            packed = pack_tokens(tokens[start : start + size])
            parent = packed_page_key(parent, packed)
            page = self._page_of.get(parent)
            if page is None or page.tokens != packed:
                break
            found.append(page)
        return found

    def publish(
        self, page: Page, key: bytes, tokens: bytes, scope: KeyScope, writer: str | None
    ) -> bool:
        """Make ``page`` findable; False, and no change, when the key has a page already."""
        if key in self._page_of:
            return False
        self._page_of[key] = page
        page.publish(key, tokens, scope, writer)
        return True

    def drop(self, page: Page) -> None:
        """Make a published page unfindable."""
        assert page.key is not None
        del self._page_of[page.key]
        page.unpublish()
