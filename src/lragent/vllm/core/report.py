"""What an engine core counts, in the form in which it is reported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lragent.sharing.report import Report
from lragent.vllm.core.block_validity import BlockValidity


def make_report(
    pool: Any,
    validity: BlockValidity,
    *,
    page_bytes: int,
    lr_bytes: int,
    slot_bytes: int,
    unloaded: Mapping[str, int],
    groups: Sequence[Mapping[str, object]],
) -> Report:
    """The report of an engine. All counts run along, since this is asked for while it serves.

    Args:
        pool: vLLM's ``BlockPool``.
        validity: validity bits, hits and recomputed tokens.
        page_bytes: size of a page over all layers of a rank.
        lr_bytes: of these, what all of its LR slots take.
        slot_bytes: what one of them takes.
        unloaded: adapters that were unloaded, and the bytes that this freed.
        groups: the sharing groups.
    """
    total = len(pool.blocks) - 1  # one of vLLM's blocks stands for none
    cached, counters = len(validity.owner), validity.counters
    return {
        "pages": {
            "total": total,
            "leased": total - pool.get_num_free_blocks(),
            "cached": cached,
        },
        "bytes": {
            "page": page_bytes,
            "base": cached * (page_bytes - lr_bytes),
            "lr": cached * lr_bytes,
            "lr_valid": validity.valid_slots * slot_bytes,
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
