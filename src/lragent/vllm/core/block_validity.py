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
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from lragent.vllm.core.bindings import ServedBinding
from lragent.vllm.core.counters import Counters
from lragent.vllm.core.turns import acts_from, shareable
from lragent.vllm.errors import PluginError
from lragent.vllm.messages import NEVER, OWN_ROW, Admission, SlotWrite


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

    Attributes:
        bits: validity bits of every page by its id.
        valid_slots: how many are set.
        owner: sharer of every page that was published, and is found by later requests.
        counters: hits and recomputed tokens.
    """

    def __init__(self, manager: Any, block_size: int):
        self._manager = manager
        self._pool = manager.block_pool
        self._size = block_size
        self.bits: dict[int, int] = defaultdict(int)
        self.valid_slots = 0
        self.owner: dict[int, str] = {}
        self.counters = Counters(block_size)
        self._found: dict[str, tuple[int, tuple[SlotWrite, ...], int]] = {}
        self._progress: dict[str, _Progress] = {}
        self._admissions: dict[str, Admission] = {}
        self._stock_lookup = manager.get_computed_blocks
        self._stock_allocate = manager.allocate_slots
        self._stock_cache = manager.cache_blocks
        self._stock_free = manager.free
        self._stock_pop = manager.pop_blocks_for_free
        self._stock_reset = manager.reset_prefix_cache
        self._stock_new = self._pool.get_new_blocks
        self._stock_publish = manager.coordinator.cache_blocks
        manager.get_computed_blocks = self.get_computed_blocks
        manager.allocate_slots = self.allocate_slots
        manager.cache_blocks = self.cache_blocks
        manager.free = self.free
        manager.pop_blocks_for_free = self.pop_blocks_for_free
        manager.reset_prefix_cache = self.reset_prefix_cache
        self._pool.get_new_blocks = self.get_new_blocks
        manager.coordinator.cache_blocks = self.publish

    def take_admissions(self) -> dict[str, Admission]:
        """Admissions since the last call, for the workers."""
        taken, self._admissions = self._admissions, {}
        return taken

    def get_computed_blocks(
        self, request: Any, max_cache_hit_length: int | None = None
    ) -> tuple[Any, ...]:
        """All pages of the longest cached prefix, and the leading tokens that need no computation.

        Tokens beyond ``max_cache_hit_length`` are computed (since vLLM 0.33), and the last token
        always, since its output is wanted; their pages are found all the same, and not written
        again.
        """
        if not self._manager.enable_caching or request.skip_reading_prefix_cache:
            self._found[request.request_id] = (0, *self._leading(request, ()))
            return self._stock_lookup(request)
        found = self._manager.coordinator.find_longest_cache_hit(
            request.block_hashes, request.num_tokens
        )
        pages: Sequence[Any] = found[0][0]
        fills, lr = self._leading(request, pages)
        most = request.num_tokens - 1
        if max_cache_hit_length is not None:
            most = min(most, max_cache_hit_length)
        computed = min(lr, most // self._size * self._size)
        self._found[request.request_id] = (len(pages) * self._size, fills, lr)
        return self._manager.create_kv_cache_blocks(found[0]), computed, 0

    def allocate_slots(
        self,
        request: Any,
        num_new_tokens: int,
        num_new_computed_tokens: int = 0,
        new_computed_blocks: Any = None,
        *args: Any,
        **kwargs: Any,
    ) -> Any | None:
        """As vLLM's own; on success the bits of pages that this step fills are set."""
        result = self._stock_allocate(
            request, num_new_tokens, num_new_computed_tokens, new_computed_blocks, *args, **kwargs
        )
        if result is None:
            return None
        computed = request.num_computed_tokens
        if new_computed_blocks is not None:
            computed += num_new_computed_tokens
            self._admit(request, computed)
        self._set_bits(request, min(computed + num_new_tokens, request.num_tokens))
        return result

    def cache_blocks(self, request: Any, num_computed_tokens: int) -> None:
        """As vLLM's own, called for tokens that were unknown when they were scheduled."""
        self._stock_cache(request, num_computed_tokens)
        self._set_bits(request, num_computed_tokens)

    def publish(self, request: Any, num_computed_tokens: int) -> None:
        """The coordinator's ``cache_blocks``, without blocks that nobody else may read."""
        self._stock_publish(request, min(num_computed_tokens, shareable(request)))

    def free(self, request: Any) -> None:
        """As vLLM's own. The bits stay with the pages."""
        self._end(request)
        self._stock_free(request)

    def pop_blocks_for_free(self, request: Any) -> list[Any]:
        """As vLLM's own, which frees the pages a few steps later."""
        self._end(request)
        return self._stock_pop(request)

    def get_new_blocks(self, num_blocks: int) -> list[Any]:
        """As vLLM's own; what a page held before is no longer valid."""
        blocks = self._stock_new(num_blocks)
        for block in blocks:
            self._clear(block.block_id)
        return blocks

    def reset_prefix_cache(self) -> bool:
        """As vLLM's own."""
        done = self._stock_reset()
        if done:
            self.bits.clear()
            self.owner.clear()
            self.valid_slots = 0
        return done

    def forget(self, sharers: Sequence[str]) -> int:
        """Take the pages of sharers out of the prefix cache; returns how many.

        Pages that requests still hold are free when those end.
        """
        doomed = {page for page, sharer in self.owner.items() if sharer in sharers}
        self._pool.evict_blocks(doomed)
        for page in doomed:
            self._clear(page)
        return len(doomed)

    def check_integrity(self, requests: Collection[str]) -> None:
        """Compare what runs along with vLLM's pages, all of them.

        Args:
            requests: ids of the requests that have not ended.

        Raises:
            PluginError: they differ, which is a fault of the plugin.
        """
        found = []
        hashed = {block.block_id for block in self._pool.blocks if block.block_hash is not None}
        if not self.owner.keys() <= hashed:
            found.append(f"pages {sorted(self.owner.keys() - hashed)} are not in vLLM's cache")
        valid = {page for page, bits in self.bits.items() if bits}
        if not valid <= self.owner.keys():
            found.append(f"pages {sorted(valid - self.owner.keys())} have bits and no owner")
        counted = sum(bits.bit_count() for bits in self.bits.values())
        if counted != self.valid_slots:
            found.append(f"{counted} slots are valid, and {self.valid_slots} were counted")
        ended = {*self._progress, *self._found} - {*requests}
        if ended:
            found.append(f"the ended requests {sorted(ended)} are still known")
        if found:
            raise PluginError("validity bits: " + "; ".join(found))

    def _clear(self, page: int) -> None:
        self.owner.pop(page, None)
        self.valid_slots -= self.bits.pop(page, 0).bit_count()

    def _end(self, request: Any) -> None:
        self._progress.pop(request.request_id, None)
        self._found.pop(request.request_id, None)

    def _admit(self, request: Any, computed: int) -> None:
        binding: ServedBinding = request.lragent_binding
        base, fills, lr = self._found.pop(request.request_id, (0, *self._leading(request, ())))
        slot = -1 if binding.slot is None else binding.slot
        self._admissions[request.request_id] = Admission(
            base, slot, fills, binding.folds, acts_from(request)
        )
        self._progress[request.request_id] = _Progress(fills, computed // self._size)
        self.counters.count(request, base, lr, computed)

    def _set_bits(self, request: Any, tokens: int) -> None:
        progress = self._progress.get(request.request_id)
        if progress is None or not self._manager.enable_caching:
            return
        end = min(tokens, shareable(request)) // self._size
        if end <= progress.pages_done:
            return
        binding: ServedBinding = request.lragent_binding
        pages = self._manager.get_blocks(request.request_id).blocks[0]
        for index in range(progress.pages_done, end):
            if pages[index].block_hash is None:
                continue  # its sharer was forgotten meanwhile
            page = pages[index].block_id
            before = after = self.bits.get(page, 0)
            for fill in progress.fills:
                if index * self._size >= fill.start:
                    after |= 1 << fill.slot
            if after != before:
                self.bits[page] = after
                self.valid_slots += (after ^ before).bit_count()
            self.owner[page] = binding.sharer
            if index == 0:
                self.counters.published(request)
        progress.pages_done = end

    def _leading(self, request: Any, pages: Sequence[Any]) -> tuple[tuple[SlotWrite, ...], int]:
        """What a request fills, from its first page without it on, and the leading tokens that it
        can read as they are."""
        binding: ServedBinding = request.lragent_binding
        client, context = binding.cache_client, shareable(request)
        needed = client.needed_mask
        # Mostly all is there, which one look at each page tells.
        common = self._pages_with(pages, needed | client.filled_mask, 0)
        fills = tuple(
            SlotWrite(
                slot,
                row,
                self._pages_with(pages, 1 << slot, common) * self._size,
                NEVER if row == OWN_ROW else context,
            )
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
