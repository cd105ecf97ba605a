"""What an engine core counts, in the form in which it is reported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lragent.vllm.core.counters import Counters
from lragent.vllm.messages import Report


def make_report(
    pool: Any,
    valid: Mapping[int, int],
    counters: Counters,
    *,
    page_bytes: int,
    lr_bytes: int,
    slot_bytes: int,
    unloaded: Mapping[str, int],
    groups: Sequence[Mapping[str, object]],
) -> Report:
    """The report of an engine.

    Args:
        pool: vLLM's ``BlockPool``.
        valid: validity bits of pages by their ids.
        counters: hits and recomputed tokens.
        page_bytes: size of a page over all layers of a rank.
        lr_bytes: of these, what all of its LR slots take.
        slot_bytes: what one of them takes.
        unloaded: adapters that were unloaded, and the bytes that this freed.
        groups: the sharing groups.
    """
    pages = [block for block in pool.blocks if not block.is_null]
    held = [block for block in pages if block.ref_cnt > 0]
    cached = [block for block in pages if block.ref_cnt == 0 and block.block_hash is not None]
    used = len(held) + len(cached)
    slots = sum(valid.get(block.block_id, 0).bit_count() for block in (*held, *cached))
    return {
        "pages": {
            "total": len(pages),
            "leased": len(held),
            "idle": len(cached),
            "free": len(pages) - used,
        },
        "bytes": {
            "page": page_bytes,
            "base": used * (page_bytes - lr_bytes),
            "lr": used * lr_bytes,
            "lr_valid": slots * slot_bytes,
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
        "unloaded": dict(unloaded),
        "groups": list(groups),
    }
