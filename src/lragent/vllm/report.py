"""The numbers that an engine reports: plain data, so that they can travel between processes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lragent.vllm.core import CorePlugin

Report = dict[str, Any]


def make_report(plugin: CorePlugin) -> Report:
    """Pages and bytes by kind, hits, recomputed tokens, and why requests did not share.

    Pages are counts, sizes bytes over all layers of one rank, hits tokens.
    """
    books, pool = plugin.books, plugin.scheduler.kv_cache_manager.block_pool
    pages = [block for block in pool.blocks if not block.is_null]
    held = [block for block in pages if block.ref_cnt > 0]
    cached = [block for block in pages if block.ref_cnt == 0 and block.block_hash is not None]
    used = len(held) + len(cached)
    valid = sum(books.valid.get(block.block_id, 0).bit_count() for block in (*held, *cached))
    slot_bytes = plugin.slot_bytes
    lr_bytes = used * plugin.options.num_slots * slot_bytes
    counters = books.counters
    return {
        "pages": {
            "total": len(pages),
            "leased": len(held),
            "idle": len(cached),
            "free": len(pages) - used,
        },
        "bytes": {
            "page": plugin.page_bytes,
            "base": used * plugin.page_bytes - lr_bytes,
            "lr": lr_bytes,
            "lr_valid": valid * slot_bytes,
        },
        "requests": counters.requests,
        "tokens": {
            "prompt": counters.prompt_tokens,
            "base_hit": counters.base_hit_tokens,
            "lr_hit": counters.lr_hit_tokens,
            "reused": counters.reused_tokens,
            "recomputed": counters.recomputed_tokens,
        },
        "not_shared": dict(counters.not_shared),
        "unloaded": {"adapters": plugin.unloaded, "bytes": plugin.unloaded_bytes},
        "groups": plugin.directory.summary(),
    }
