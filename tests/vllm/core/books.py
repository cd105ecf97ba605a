"""The plugin's books, for the state machine that drives those of the embedded engine."""

# pyright: reportMissingImports=false, reportAttributeAccessIssue=false

from __future__ import annotations

from collections.abc import Mapping
from itertools import count
from typing import Any

import torch
from tests.model_based.books import SCOPE, Found, GroupsByName, PageState, bits
from tests.model_based.reference import Request
from tests.model_based.world import Adapter, Team
from vllm import SamplingParams
from vllm.lora.request import LoRARequest
from vllm.utils.hashing import sha256
from vllm.v1.core.kv_cache_manager import KVCacheManager
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
from vllm.v1.request import Request as Served

from lragent.sharing import Binding
from lragent.vllm.core.bindings import serve
from lragent.vllm.core.block_validity import BlockValidity
from lragent.vllm.core.request_keys import binding_hasher
from lragent.vllm.core.rows import RowTable


class PluginBooks(GroupsByName):
    """vLLM's KV cache manager with `BlockValidity` and `Groups`.

    vLLM looks a request up and allocates for its first tokens at once, and publishes pages when it
    allocates them. The first of its blocks is nobody's.
    """

    computes_whole_pages = True
    publishes_twice = True
    detaches = False
    evicts_in_turn = False
    num_pages, page_size = 24, 2

    def __init__(self, teams: Mapping[str, Team]) -> None:
        super().__init__(teams)
        init_none_hash(sha256)
        spec = FullAttentionSpec(self.page_size, num_kv_heads=1, head_size=4, dtype=torch.float32)
        config = KVCacheConfig(self.num_pages + 1, [], [KVCacheGroupSpec(["layer"], spec)])
        self.manager = KVCacheManager(config, 256, self.page_size, self.page_size)
        self.pool = self.manager.block_pool
        self.validity = BlockValidity(self.manager, self.page_size)
        self.rows = RowTable(256, lambda: ())
        hasher = get_request_block_hasher(self.page_size, sha256)
        self.hasher = binding_hasher(hasher, lambda request: self.entering, self.page_size)
        self.entering: Any = None
        self.served: dict[Request, Any] = {}
        self.first_pages: dict[Request, list[int]] = {}
        self.ids = count()

    def admit(self, request: Request, binding: Binding[Adapter]) -> Found | None:
        self.entering = serve(binding, SCOPE, self.rows, None)  # type: ignore[arg-type]
        lora = None if binding.name is None else LoRARequest(binding.name, 1, "/nowhere")
        served = Served(
            f"{next(self.ids)}", list(request.tokens[: request.prompt]),
            SamplingParams(max_tokens=100), None, lora_request=lora,
            cache_salt=request.tenant or None, block_hasher=self.hasher,
        )  # fmt: skip
        self._append(served, request)
        blocks, computed, *_ = self.manager.get_computed_blocks(served)
        found = [block.block_id for block in blocks.blocks[0]]
        if self.manager.allocate_slots(served, 1, computed, blocks) is None:
            self.manager.free(served)
            return None
        served.num_computed_tokens = computed + 1
        self.served[request] = served
        self.first_pages[request] = self._pages(served)[len(found) :]
        admission = self.validity.take_admissions()[served.request_id]
        writes_from = {fill.slot: fill.start for fill in admission.fills}
        return Found(found, admission.base_tokens, computed, writes_from)

    def extend(self, request: Request, upto: int) -> list[int] | None:
        if request in self.first_pages:
            return self.first_pages.pop(request)
        served = self.served[request]
        before = self._pages(served)
        self._append(served, request)
        more = upto - served.num_computed_tokens
        if more > 0 and self.manager.allocate_slots(served, more) is None:
            return None
        assert self._pages(served)[: len(before)] == before
        return self._pages(served)[len(before) :]

    def commit(self, request: Request, upto: int) -> None:
        self.served[request].num_computed_tokens = upto

    def release(self, request: Request) -> None:
        self.manager.free(self.served.pop(request))

    def forget(self, sharer: str) -> int:
        pages = [page for page, owner in self.validity.owner.items() if owner == sharer]
        idle = sum(self.pool.blocks[page].ref_cnt == 0 for page in pages)
        assert self.validity.forget([sharer]) == len(pages)
        return idle

    def reset(self) -> None:
        for served in self.served.values():
            self.manager.free(served)
        self.served.clear()
        assert self.manager.reset_prefix_cache()

    def walk(self) -> list[PageState]:
        nobodys = PageState(0, True, False, set())
        return [nobodys] + [
            PageState(
                block.ref_cnt,
                block.ref_cnt == 0 and block.block_hash is None,
                block.block_hash is not None,
                bits(self.validity.bits.get(block.block_id, 0)),
            )
            for block in self.pool.blocks[1:]
        ]

    def check(self) -> None:
        self.validity.check_integrity({served.request_id for served in self.served.values()})
        free = [block.block_id for block in self.pool.free_block_queue.get_all_free_blocks()]
        unused = [block.block_id for block in self.pool.blocks[1:] if block.ref_cnt == 0]
        assert sorted(free) == unused, f"{free} are in the free queue, {unused} have no holder"

    def _pages(self, served: Any) -> list[int]:
        return [block.block_id for block in self.manager.get_blocks(served.request_id).blocks[0]]

    def _append(self, served: Any, request: Request) -> None:
        for token in request.tokens[served.num_tokens :]:
            served.append_output_token_ids(token)
