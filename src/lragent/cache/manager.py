"""The cache manager: who may read and write which page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from lragent.cache import integrity
from lragent.cache.client import CacheClient
from lragent.cache.errors import IntegrityError, LeaseError
from lragent.cache.keys import pack_tokens, packed_page_key
from lragent.cache.lease import Lease
from lragent.cache.page import CachedPage, Page
from lragent.cache.pool import PagePool
from lragent.cache.prefix_index import PrefixIndex
from lragent.cache.sharing_reasons import SHORTER_THAN_PAGE, SeenPrompts
from lragent.cache.stats import CacheStats


class Freed(NamedTuple):
    """Pages that ``forget`` made free, and their bytes over all layers."""

    pages: int
    bytes: int


class CacheManager:
    """Books of a pool of KV pages; the numbers themselves live in the engine's tensors.

    A request's life: ``admit`` (leases cached pages) → ``extend`` (owns pages for the tokens to
    come) and ``commit`` (tells what was computed), again and again → ``release``. For sequences
    whose pages lie side by side, extend to the whole prompt at once, not chunk by chunk. One
    thread at a time.

    Args:
        num_pages: pages of the pool.
        page_size: tokens a page.
        page_bytes: bytes of one page over all layers, its LR slots and padding included.
        lr_bytes_per_slot: bytes of one LR slot of one page over all layers.
        slots: LR slots a page has.
        growth_room: pages left unused behind a sequence, where there is space, so that its pages
            stay consecutive while it grows. For attention that reads such runs faster.
        allocation_hook: called before each page is handed out; may raise, for tests.

    Raises:
        ValueError: a size is impossible.
    """

    def __init__(
        self,
        num_pages: int,
        page_size: int,
        page_bytes: int,
        lr_bytes_per_slot: int,
        *,
        slots: int = 1,
        growth_room: int = 0,
        allocation_hook: Callable[[], None] | None = None,
    ) -> None:
        if num_pages < 1 or page_size < 1:
            raise ValueError(
                f"the cache needs at least one page of one token, got {num_pages} pages of "
                f"{page_size}; give it more bytes"
            )
        if min(page_bytes, lr_bytes_per_slot, slots) < 0 or page_bytes < slots * lr_bytes_per_slot:
            raise ValueError(
                f"a page of {page_bytes} bytes cannot hold {slots} LR slots of "
                f"{lr_bytes_per_slot} bytes"
            )
        self.page_size = page_size
        self.slots = slots
        self._page_bytes = page_bytes
        self._lr_bytes_per_slot = lr_bytes_per_slot
        self._growth_room = growth_room
        self._allocation_hook = allocation_hook
        self._pool = PagePool(num_pages, growth_room, allocation_hook)
        self._index = PrefixIndex(page_size)
        self._seen = SeenPrompts()
        self._leases: set[Lease] = set()
        self._evictions = 0
        self._valid_slots = 0
        self._more_users = 0  # of published pages, beyond their writers

    @property
    def num_pages(self) -> int:
        """Pages of the pool."""
        return len(self._pool.pages)

    @property
    def used_pages(self) -> int:
        """Leased and idle pages; cheap enough to ask for after every step."""
        return self.num_pages - self._pool.free_count

    def pages_for(self, num_tokens: int) -> int:
        """Pages that ``num_tokens`` tokens take."""
        return -(-num_tokens // self.page_size)

    def admit(
        self, client: CacheClient, tokens: Sequence[int], shareable: int | None = None
    ) -> Lease:
        """Lease the pages that hold the longest cached prefix of ``tokens``; allocate none.

        Only pages of the first ``shareable`` tokens are looked for, and published later on; those
        behind are the request's own and are free when it ends. None: all tokens.

        Raises:
            ValueError: no tokens, or the client uses a slot that pages do not have.
        """
        self._check_admission(client, tokens)
        public = tokens[:shareable]
        pages = self._index.match(client.root, public)
        size = self.page_size
        # Mostly every slot is valid, which one look at each page tells.
        common = _pages_with(pages, client.needed_mask | client.filled_mask, 0)
        base_tokens = len(pages) * size
        lr_tokens = _pages_with(pages, client.needed_mask, common) * size
        computed = min(base_tokens, lr_tokens, len(tokens) - 1)
        first_run_whole = -(-computed // size)
        for page in pages:
            self._pool.lease(page)
            if client.name not in page.users:
                page.users.append(client.name)
                self._more_users += 1
        lease = Lease(
            client,
            [page.id for page in pages],
            (pages[-1].key if pages else None) or client.root,
            base_tokens=base_tokens,
            lr_tokens=lr_tokens,
            computed_tokens=computed,
            fill_from=tuple(
                size * max(first_run_whole, _pages_with(pages, 1 << slot, common))
                for slot in client.fills
            ),
            not_shared=None if pages else self._why_not(client, public),
            shareable=shareable,
        )
        self._leases.add(lease)
        return lease

    def extend(self, lease: Lease, num_tokens: int) -> None:
        """Let ``lease`` own pages for ``num_tokens`` tokens in all; never takes pages away.

        Free pages go first, then idle ones, the longest unused and deepest first; never leased
        ones.

        Raises:
            OutOfPages: not enough pages are free or idle. Nothing was changed, as with every
                exception of the allocation hook.
            LeaseError: the lease is not live.
        """
        self._check_live(lease)
        missing = self.pages_for(num_tokens) - len(lease.pages)
        if missing <= 0:
            return
        handed = self._pool.hand_out(missing, lease.pages[-1] if lease.pages else None)
        for page in handed.evicted:
            self._drop(page)
        self._evictions += len(handed.evicted)
        lease.pages.extend(page.id for page in handed.pages)

    def commit(self, lease: Lease, tokens: Sequence[int], computed: int) -> None:
        """Record that ``tokens[:computed]`` are in the lease's pages, and publish full ones.

        ``tokens`` begins with the admitted ones. A page that became full gets its key and the
        validity bits of the slots that the client fills; when its key has a page already, it
        stays private to the lease. On shared pages whose LR the client recomputed, the bits are
        set once the page's last token is.

        Raises:
            LeaseError: the lease is not live, or ``computed`` goes back or beyond the tokens or
                the lease's pages.
        """
        self._check_live(lease)
        if not lease.committed <= computed <= min(len(tokens), len(lease.pages) * self.page_size):
            raise LeaseError(
                f"cannot commit {computed} tokens: {lease.committed} are committed, {len(tokens)} "
                f"given, and the lease's {len(lease.pages)} pages hold "
                f"{len(lease.pages) * self.page_size}"
            )
        public = computed if lease.shareable is None else min(computed, lease.shareable)
        first, end = lease.committed // self.page_size, public // self.page_size
        lease.committed = computed
        if not lease.detached:
            for i in range(first, end):
                self._page_filled(lease, tokens, i)

    def release(self, lease: Lease) -> None:
        """End a lease: finished, aborted or preempted. Published pages go idle, others are free.

        Raises:
            LeaseError: the lease is not live.
        """
        self._check_live(lease)
        self._leases.remove(lease)
        for page_id in reversed(lease.pages):  # deepest first: a prefix outlives what follows it
            self._pool.unlease(self._pool.pages[page_id])
        lease.pages.clear()

    def forget(self, sharer: str, tenant: str | None = None) -> Freed:
        """Drop all pages of a sharer (after an unload), of one tenant or of all.

        Idle pages are free at once. Leased ones cannot be found any more and are free when
        released; their leases go on as before but publish nothing.
        """
        doomed = [page for _, page in self._index.items() if _belongs(page, sharer, tenant)]
        idle = [page for page in doomed if page.refs == 0]
        for page in doomed:
            self._drop(page)
        for page in idle:
            self._pool.discard(page)
        for lease in self._leases:
            scope = lease.client.scope
            if scope.sharer == sharer and tenant in (None, scope.tenant):
                lease.detached = True
        return Freed(len(idle), len(idle) * self._page_bytes)

    def reset(self) -> None:
        """Free every page and end every lease, whatever state an exception left them in."""
        self._pool = PagePool(self.num_pages, self._growth_room, self._allocation_hook)
        self._index = PrefixIndex(self.page_size)
        self._leases = set()
        self._valid_slots = self._more_users = 0

    def look_up(self, client: CacheClient, tokens: Sequence[int]) -> list[CachedPage]:
        """The cached pages of the longest prefix of ``tokens``, for people; changes nothing."""
        return [
            CachedPage(
                tuple(page.users), tuple(i for i in range(self.slots) if page.valid >> i & 1)
            )
            for page in self._index.match(client.root, tokens)
        ]

    def check_integrity(self) -> None:
        """Recompute the books from the live leases and compare.

        Raises:
            IntegrityError: lists every violated invariant with its numbers.
        """
        found = integrity.violations(
            self._pool, self._index, self._leases, self.stats(), self.page_size, self.slots
        )
        if found:
            raise IntegrityError(found)

    def stats(self) -> CacheStats:
        """A snapshot of pages and bytes."""
        pool, used = self._pool, self.used_pages
        lr_bytes = used * self.slots * self._lr_bytes_per_slot
        return CacheStats(
            pages_free=pool.free_count,
            pages_leased=used - len(pool.idle),
            pages_idle=len(pool.idle),
            page_bytes=self._page_bytes,
            base_bytes=used * self._page_bytes - lr_bytes,
            lr_bytes=lr_bytes,
            evictions=self._evictions,
            pages_found=len(self._index),
            pages_alone=used + self._more_users,
            valid_slots=self._valid_slots,
        )

    def _page_filled(self, lease: Lease, tokens: Sequence[int], i: int) -> None:
        """Page ``i`` of the lease now holds all its tokens."""
        start = i * self.page_size
        page = self._pool.pages[lease.pages[i]]
        if start < lease.base_tokens:
            for slot, filled_from in zip(lease.client.fills, lease.fill_from, strict=True):
                if start >= filled_from:
                    self._now_valid(page, 1 << slot)
            return
        packed = pack_tokens(tokens[start : start + self.page_size])
        lease.chain = packed_page_key(lease.chain, packed)
        client = lease.client
        if self._index.publish(page, lease.chain, packed, client.scope, client.name):
            self._now_valid(page, client.filled_mask)
            if i == 0:
                self._seen.record(client, packed)

    def _now_valid(self, page: Page, mask: int) -> None:
        self._valid_slots += (mask & ~page.valid).bit_count()
        page.valid |= mask

    def _drop(self, page: Page) -> None:
        self._valid_slots -= page.valid.bit_count()
        self._more_users -= len(page.users) - 1
        self._index.drop(page)

    def _why_not(self, client: CacheClient, tokens: Sequence[int]) -> str:
        if len(tokens) < self.page_size:
            return SHORTER_THAN_PAGE
        return self._seen.explain(client, pack_tokens(tokens[: self.page_size]))

    def _check_admission(self, client: CacheClient, tokens: Sequence[int]) -> None:
        if not len(tokens):
            raise ValueError("a request needs at least one token")
        if (client.needed_mask | client.filled_mask).bit_length() > self.slots:
            raise ValueError(
                f"the client uses the LR slots {client.fills}, pages have {self.slots}; create the "
                "cache with slots= the group's number of slots"
            )

    def _check_live(self, lease: Lease) -> None:
        if lease not in self._leases:
            raise LeaseError(f"{lease} was released, or belongs to another cache")


def _pages_with(pages: Sequence[Page], mask: int, known: int) -> int:
    """How many leading pages have all bits of ``mask``; the first ``known`` ones have."""
    for index in range(known, len(pages)):
        if pages[index].valid & mask != mask:
            return index
    return len(pages)


def _belongs(page: Page, sharer: str, tenant: str | None) -> bool:
    scope = page.scope
    return scope is not None and scope.sharer == sharer and tenant in (None, scope.tenant)
