"""Validity bits, base hits and LR hits on top of vLLM's KV cache manager.

vLLM knows one kind of hit: a page is there, and its tokens need no computation. Here a page is
there *and* the request's LR slot in it is valid, or only the former: then the request holds the
page, runs its tokens again and writes nothing but its slot. vLLM allows a request more pages than
computed tokens, so this needs nothing of it but the calls below.

Bits are set at the moment at which vLLM publishes a page's hash: when its tokens are scheduled, so
that a request of the same step may use both (within a layer all rows are written before any is
read), or, where the scheduler runs ahead of the tokens it has seen, once they are known.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lragent.sharing.bindings import BASE_MODEL
from lragent.vllm.core.bindings import ServedBinding
from lragent.vllm.core.counters import Counters
from lragent.vllm.messages import Admission, SlotWrite


@dataclass
class _Progress:
    """How far an admitted request has filled the slots of its pages."""

    fills: tuple[SlotWrite, ...]
    pages_done: int


class BlockValidity:
    """Wraps one engine's KV cache manager, in place.

    Args:
        manager: vLLM's ``KVCacheManager``.
        block_size: tokens a page.

    The attribute ``valid`` holds the validity bits of every page by its id; ``owner`` the sharer of
    every page that was published.
    """

    def __init__(self, manager: Any, block_size: int):
        self._manager = manager
        self._pool = manager.block_pool
        self._size = block_size
        self.bits: dict[int, int] = defaultdict(int)
        self.owner: dict[int, str] = {}
        self.counters = Counters(block_size)
        self._found: dict[str, tuple[int, tuple[SlotWrite, ...], int]] = {}
        self._progress: dict[str, _Progress] = {}
        self._admissions: dict[str, Admission] = {}
        # vLLM 0.29 records the hit once the request is admitted, vLLM 0.26 where it looks it up.
        self._record = not hasattr(manager, "record_prefix_cache_stats")
        self._stock_lookup = manager.get_computed_blocks
        self._stock_allocate = manager.allocate_slots
        self._stock_cache = manager.cache_blocks
        self._stock_free = manager.free
        self._stock_pop = getattr(manager, "pop_blocks_for_free", None)
        self._stock_new = self._pool.get_new_blocks
        manager.get_computed_blocks = self.get_computed_blocks
        manager.allocate_slots = self.allocate_slots
        manager.cache_blocks = self.cache_blocks
        manager.free = self.free
        if self._stock_pop is not None:
            manager.pop_blocks_for_free = self.pop_blocks_for_free
        self._pool.get_new_blocks = self.get_new_blocks

    def take_admissions(self) -> dict[str, Admission]:
        """Admissions since the last call, for the workers."""
        taken, self._admissions = self._admissions, {}
        return taken

    def get_computed_blocks(self, request: Any) -> tuple[Any, ...]:
        """All pages of the longest cached prefix, and the leading tokens that need no computation.

        The last token is always computed, since its output is wanted; its page is found all the
        same, and not written again.
        """
        binding: ServedBinding = request.lragent_binding
        if not self._manager.enable_caching or request.skip_reading_prefix_cache:
            self._found[request.request_id] = (0, *self._leading(binding, ()))
            return self._stock_lookup(request)
        found = self._manager.coordinator.find_longest_cache_hit(
            request.block_hashes, request.num_tokens
        )
        pages: Sequence[Any] = found[0][0]
        fills, lr = self._leading(binding, pages)
        last = (request.num_tokens - 1) // self._size
        computed = min(lr, last * self._size)
        self._found[request.request_id] = (len(pages) * self._size, fills, lr)
        if self._record and self._manager.log_stats:
            self._manager.prefix_cache_stats.record(
                num_tokens=request.num_tokens,
                num_hits=computed,
                preempted=request.num_preemptions > 0,
            )
        return self._manager.create_kv_cache_blocks(found[0]), computed, 0

    def allocate_slots(
        self, request: Any, num_new_tokens: int, *args: Any, **kwargs: Any
    ) -> Any | None:
        """As vLLM's own; on success the bits of pages that this step fills are set."""
        result = self._stock_allocate(request, num_new_tokens, *args, **kwargs)
        if result is None:
            return None
        computed = request.num_computed_tokens
        if kwargs.get("new_computed_blocks") is not None:
            computed += kwargs.get("num_new_computed_tokens", 0)
            self._admit(request, computed)
        self._set_bits(request, min(computed + num_new_tokens, request.num_tokens))
        return result

    def cache_blocks(self, request: Any, num_computed_tokens: int) -> None:
        """As vLLM's own, called for tokens that were unknown when they were scheduled."""
        self._stock_cache(request, num_computed_tokens)
        self._set_bits(request, num_computed_tokens)

    def free(self, request: Any) -> None:
        """As vLLM's own. The bits stay with the pages."""
        self._end(request)
        self._stock_free(request)

    def pop_blocks_for_free(self, request: Any) -> list[Any]:
        """As vLLM's own, which frees the pages a few steps later."""
        self._end(request)
        assert self._stock_pop is not None
        return self._stock_pop(request)

    def get_new_blocks(self, num_blocks: int) -> list[Any]:
        """As vLLM's own; what a page held before is no longer valid."""
        blocks = self._stock_new(num_blocks)
        for block in blocks:
            self.bits.pop(block.block_id, None)
            self.owner.pop(block.block_id, None)
        return blocks

    def forget(self, sharers: Sequence[str]) -> int:
        """Take the pages of sharers out of the prefix cache; returns how many.

        Pages that requests still hold are free when those end.
        """
        doomed = {page for page, sharer in self.owner.items() if sharer in sharers}
        self._pool.evict_blocks(doomed)
        for page in doomed:
            self.owner.pop(page, None)
        return len(doomed)

    def _end(self, request: Any) -> None:
        self._progress.pop(request.request_id, None)
        self._found.pop(request.request_id, None)

    def _admit(self, request: Any, computed: int) -> None:
        binding: ServedBinding = request.lragent_binding
        base, fills, lr = self._found.pop(request.request_id, (0, *self._leading(binding, ())))
        slot = -1 if binding.slot is None else binding.slot
        self._admissions[request.request_id] = Admission(base, slot, fills, binding.folds)
        self._progress[request.request_id] = _Progress(fills, computed // self._size)
        self.counters.count(request, base, lr, computed)

    def _set_bits(self, request: Any, tokens: int) -> None:
        progress = self._progress.get(request.request_id)
        if progress is None or not self._manager.enable_caching:
            return
        end = tokens // self._size
        if end <= progress.pages_done:
            return
        binding: ServedBinding = request.lragent_binding
        pages = self._manager.get_blocks(request.request_id).blocks[0]
        for index in range(progress.pages_done, end):
            page = pages[index].block_id
            for fill in progress.fills:
                if index * self._size >= fill.start:
                    self.bits[page] |= 1 << fill.slot
            if binding.sharer != BASE_MODEL:
                self.owner[page] = binding.sharer
            if index == 0:
                self.counters.published(request)
        progress.pages_done = end

    def _leading(
        self, binding: ServedBinding, pages: Sequence[Any]
    ) -> tuple[tuple[SlotWrite, ...], int]:
        """What a request fills, from its first page without it on, and the leading tokens that it
        can read as they are."""
        client = binding.cache_client
        needed = client.needed_mask
        # Mostly all is there, which one look at each page tells.
        common = self._pages_with(pages, needed | client.filled_mask, 0)
        fills = tuple(
            SlotWrite(slot, row, self._pages_with(pages, 1 << slot, common) * self._size)
            for slot, row in zip(client.fills, binding.rows, strict=True)
        )
        return fills, self._pages_with(pages, needed, common) * self._size

    def _pages_with(self, pages: Sequence[Any], mask: int, known: int) -> int:
        """How many leading pages have all bits of a mask; the first ``known`` ones have."""
        valid = self.bits.get
        for index in range(known, len(pages)):
            if valid(pages[index].block_id, 0) & mask != mask:
                return index
        return len(pages)
