"""The page pool: which pages are free, leased or idle, and in what order idle ones go.

free ──hand_out──► leased (refs >= 1) ──last release──► idle, if published ──lease──► leased
 ▲                        │ last release, not published      │
 └────────────────────────┴──────────────── eviction ────────┘
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from lragent.cache.errors import OutOfPages
from lragent.cache.page import Page


class HandedOut(NamedTuple):
    """Pages now leased once. The caller must drop ``evicted`` ones of them from its index."""

    pages: list[Page]
    evicted: list[Page]


class PagePool:
    """``num_pages`` pages. Each is free, leased or idle.

    ``growth_room`` pages stay unused behind a sequence, where there is space, so that it can grow
    in place. ``allocation_hook`` is called before each page is handed out and may raise; the pool
    then is as it was before the call.
    """

    def __init__(
        self,
        num_pages: int,
        growth_room: int = 0,
        allocation_hook: Callable[[], None] | None = None,
    ) -> None:
        self.pages = [Page(i) for i in range(num_pages)]
        self.idle: OrderedDict[int, Page] = OrderedDict()  # the first goes next
        self.free_count = num_pages
        self._free = bytearray(b"\1" * num_pages)  # one byte a page; bytes.find() searches it
        self._growth_room = growth_room
        self._hook = allocation_hook

    @property
    def available(self) -> int:
        """Pages that can be handed out now: free and idle ones."""
        return self.free_count + len(self.idle)

    def is_free(self, page_id: int) -> bool:
        """Whether the page belongs to nobody and holds nothing."""
        return bool(self._free[page_id])

    def hand_out(self, count: int, after: int | None = None) -> HandedOut:
        """Lease ``count`` pages that nobody holds, evicting the longest idle where needed.

        Ids follow ``after`` (the sequence's last page) where those are free, else they form one
        run where there is one, else the lowest are taken.

        Raises:
            OutOfPages: fewer than ``count`` pages are free or idle; nothing was changed.
        """
        if count > self.available:
            raise OutOfPages(count, self.available, len(self.pages))
        evicted = [self.idle.popitem(last=False)[1] for _ in range(count - self.free_count)]
        for page in evicted:
            self._free[page.id] = 1
        pages: list[Page] = []
        page_id = -1 if after is None else after
        try:
            for left in range(count, 0, -1):
                if self._hook is not None:
                    self._hook()
                page_id = self._choose(page_id + 1, left)
                self._free[page_id] = 0
                pages.append(self.pages[page_id])
        except BaseException:
            for page in pages:
                self._free[page.id] = 1
            for page in reversed(evicted):
                self._free[page.id] = 0
                self.idle[page.id] = page
                self.idle.move_to_end(page.id, last=False)
            raise
        self.free_count -= count - len(evicted)
        for page in pages:
            page.refs = 1
        return HandedOut(pages, evicted)

    def lease(self, page: Page) -> None:
        """Add one holder to an idle or leased page."""
        if page.refs == 0:
            del self.idle[page.id]
        page.refs += 1

    def unlease(self, page: Page) -> None:
        """Take one holder away; the last one leaves the page idle (published) or free."""
        page.refs -= 1
        if page.refs == 0:
            if page.key is None:
                self._give_back(page)
            else:
                self.idle[page.id] = page

    def discard(self, page: Page) -> None:
        """Free an idle page that its index has dropped."""
        del self.idle[page.id]
        self._give_back(page)

    def _give_back(self, page: Page) -> None:
        self._free[page.id] = 1
        self.free_count += 1

    def _choose(self, wished: int, left: int) -> int:
        """A free page: ``wished``, else where ``left`` pages in a row best begin."""
        if wished > 0 and wished < len(self.pages) and self._free[wished]:
            return wished
        start = self._free.find(b"\1" * (self._growth_room + left))
        if start >= 0:
            return start + self._growth_room if start else 0
        start = self._free.find(b"\1" * left)
        return start if start >= 0 else self._free.find(1)
