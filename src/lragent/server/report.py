"""The engine's numbers in the form of the vLLM plugin's."""

from __future__ import annotations

from collections.abc import Mapping

from lragent.engine import EngineStats
from lragent.sharing.report import Report


def report_of(stats: EngineStats, unloaded: Mapping[str, int]) -> Report:
    """The report of the embedded engine.

    Args:
        stats: its statistics.
        unloaded: adapters that were unloaded, and the bytes that this freed.
    """
    total, pages = stats.total, stats.pages
    return {
        "pages": {
            "total": sum(pages.values()),
            "leased": pages["leased"],
            "cached": stats.found_pages,
        },
        "bytes": {
            "page": stats.page_bytes,
            "base": stats.kv_base_bytes,
            "lr": stats.kv_lr_bytes,
            "lr_valid": stats.kv_lr_valid_bytes,
            "isolated": stats.kv_isolated_bytes,
        },
        "requests": total.requests,
        "tokens": {
            "prompt": total.prompt_tokens,
            "base_hit": total.base_hit_tokens,
            "lr_hit": total.lr_hit_tokens,
            "reused": total.reused_tokens,
            "recomputed": total.recomputed_tokens,
        },
        "not_shared": dict(total.not_shared),
        "unloaded": dict(unloaded),
        "groups": list(stats.groups),
    }
