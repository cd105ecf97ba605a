"""What the state machine drives: the embedded engine's books. The plugin has books of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

import torch
from tests.model_based.reference import NEVER, Request
from tests.model_based.world import SLOTS, Adapter, Team

from lragent.adapters.errors import AdapterError
from lragent.attention import page_views
from lragent.cache import CacheManager, KeyScope, Lease, OutOfPages, PageLayout
from lragent.sharing import Binding, Groups, SharingGroup

SCOPE = KeyScope("model", "float32", "layout", "", "", "")


class Found(NamedTuple):
    """What an admission found: pages, and leading tokens by what is there of them.

    ``writes_from`` is the first token of which the request writes a slot.
    """

    pages: list[int]
    base: int
    computed: int
    writes_from: dict[int, int]


class PageState(NamedTuple):
    """A page by its books: holders, whether nobody can want it, whether it is found, its bits."""

    refs: int
    free: bool
    published: bool
    slots: set[int]


class Books(Protocol):
    """A cache with groups.

    Attributes:
        computes_whole_pages: a request begins to compute at the start of a page.
        publishes_twice: pages of equal contents are all published.
        detaches: requests of a forgotten sharer publish nothing more.
        evicts_in_turn: the page that was idle for longest goes first.
    """

    num_pages: int
    page_size: int
    computes_whole_pages: bool
    publishes_twice: bool
    detaches: bool
    evicts_in_turn: bool

    def put(self, name: str, adapter: Adapter, team: str | None) -> bool: ...
    def remove(self, name: str) -> None: ...
    def binding(self, name: str | None) -> Binding[Adapter]: ...
    def admit(self, request: Request, binding: Binding[Adapter]) -> Found | None: ...
    def extend(self, request: Request, upto: int) -> list[int] | None: ...
    def commit(self, request: Request, upto: int) -> None: ...
    def release(self, request: Request) -> None: ...
    def forget(self, sharer: str) -> int: ...
    def reset(self) -> None: ...
    def walk(self) -> Sequence[PageState]: ...
    def check(self) -> None: ...


class GroupsByName:
    """The part of both books that says who shares with whom."""

    def __init__(self, teams: Mapping[str, Team]) -> None:
        self.loaded: dict[str, Adapter] = {}
        declared = [SharingGroup(n, (), t.policy, t.with_base) for n, t in teams.items()]
        self.groups: Groups[Adapter] = Groups(declared, {}, None, "{} slots")

    def put(self, name: str, adapter: Adapter, team: str | None) -> bool:
        group = None if team is None else self.groups.named(team)
        try:
            self.groups.put(name, adapter, group, SLOTS)
        except AdapterError:
            return False
        self.loaded[name] = adapter
        return True

    def remove(self, name: str) -> None:
        self.groups.remove(name)
        self.loaded.pop(name, None)

    def binding(self, name: str | None) -> Binding[Adapter]:
        if name is None:
            return self.groups.bind_base_model()
        return self.groups.bind(name, self.loaded[name])


class EmbeddedBooks(GroupsByName):
    """`CacheManager` and `Groups`, over tensors of which only the sizes are looked at."""

    computes_whole_pages = False
    publishes_twice = False
    detaches = True
    evicts_in_turn = True
    num_pages, page_size = 24, 2

    def __init__(self, teams: Mapping[str, Team], allocating: Callable[[], None]) -> None:
        super().__init__(teams)
        layout = PageLayout(self.page_size, 1, 4, SLOTS, 3, 1, itemsize=4)
        layers = [torch.empty(self.num_pages, layout.page_elements) for _ in range(2)]
        views = [page_views(layer, layout) for layer in layers]
        self.page_bytes = sum(layer[0].nbytes for layer in layers)
        self.lr_bytes = sum(view.lr[0].nbytes for view in views if view.lr is not None)
        self.manager = CacheManager(
            self.num_pages, self.page_size, layout.page_bytes * 2, layout.lr_slot_bytes * 2,
            slots=SLOTS, allocation_hook=allocating,
        )  # fmt: skip
        self.leases: dict[Request, Lease] = {}

    def admit(self, request: Request, binding: Binding[Adapter]) -> Found:
        scope = KeyScope(**{**vars(SCOPE), "tenant": request.tenant})
        client = binding.client(scope)
        public = None if request.context == NEVER else request.context
        lease = self.manager.admit(client, request.tokens, public)
        for i, page_id in enumerate(lease.pages):
            page = self.manager._pool.pages[page_id]
            tokens = request.tokens[i * self.page_size : (i + 1) * self.page_size]
            held = [int.from_bytes(page.tokens[at : at + 8], "little") for at in range(0, 16, 8)]
            assert held == tokens, f"page {page_id} holds {held}, found for {tokens}"
            assert page.scope == client.scope, f"page {page_id} of {page.scope} for {client.scope}"
        self.leases[request] = lease
        return Found(
            lease.pages, lease.base_tokens, lease.computed_tokens,
            dict(zip(client.fills, lease.fill_from, strict=True)),
        )  # fmt: skip

    def extend(self, request: Request, upto: int) -> list[int] | None:
        lease = self.leases[request]
        before = list(lease.pages)
        try:
            self.manager.extend(lease, upto)
        except OutOfPages:
            return None
        assert lease.pages[: len(before)] == before, "extend changed the pages it had"
        return lease.pages[len(before) :]

    def commit(self, request: Request, upto: int) -> None:
        self.manager.commit(self.leases[request], request.tokens, upto)

    def release(self, request: Request) -> None:
        self.manager.release(self.leases[request])
        del self.leases[request]

    def forget(self, sharer: str) -> int:
        freed = self.manager.forget(sharer)
        assert freed.bytes == freed.pages * self.page_bytes, f"{freed}: not the tensors' bytes"
        return freed.pages

    def reset(self) -> None:
        self.manager.reset()
        self.leases.clear()

    def walk(self) -> list[PageState]:
        pool = self.manager._pool
        return [
            PageState(p.refs, pool.is_free(p.id), p.key is not None, bits(p.valid))
            for p in pool.pages
        ]

    def check(self) -> None:
        self.manager.check_integrity()
        stats, pages = self.manager.stats(), self.walk()
        leased, free = sum(p.refs > 0 for p in pages), sum(p.free for p in pages)
        used = self.num_pages - free
        assert (stats.pages_free, stats.pages_leased) == (free, leased), f"{stats}, walked {pages}"
        assert stats.base_bytes + stats.lr_bytes == used * self.page_bytes, "bytes of the tensors"
        assert stats.lr_bytes == used * self.lr_bytes, "bytes of the tensors' LR"

    def state(self) -> object:
        """All of the cache's books, to compare with a later moment."""
        pool = self.manager._pool
        pages = [(p.refs, p.key, p.tokens, p.valid, pool.is_free(p.id)) for p in pool.pages]
        leases = [list(lease.pages) for lease in self.leases.values()]
        return pages, list(pool.idle), leases, self.manager.stats()


def bits(mask: int) -> set[int]:
    return {slot for slot in range(SLOTS) if mask >> slot & 1}
