"""How many pages fit: the KV budget in bytes, pages and tokens."""

from __future__ import annotations

import os

import torch

from lragent.cache.layout import PageLayout
from lragent.engine.errors import BudgetError

CPU_SHARE, CPU_MOST = 0.25, 4 << 30
GPU_SHARE = 0.8


def default_kv_bytes(device: torch.device, most: int) -> int:
    """A quarter of this machine's memory, 4 GiB at most; on a GPU 80 % of what is free.

    Never more than `most`, the bytes of as many of the longest requests as run at once.
    """
    if device.type == "cuda":
        return min(most, int(torch.cuda.mem_get_info(device)[0] * GPU_SHARE))
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min(most, CPU_MOST, int(total * CPU_SHARE))


def growth_room(device: torch.device) -> int:
    """Pages to leave unused behind a growing sequence: attention on a CPU reads a run of
    consecutive pages without gathering them.
    """
    return 16 if device.type == "cpu" else 0


def pages_in(kv_bytes: int, layout: PageLayout, layers: int) -> int:
    """Pages of all layers that `kv_bytes` hold.

    Raises:
        BudgetError: not even one page fits.
    """
    pages = kv_bytes // (layout.page_bytes * layers)
    if pages < 1:
        raise BudgetError(
            f"a KV budget of {kv_bytes:,} bytes does not hold one page of "
            f"{layout.page_bytes * layers:,} bytes ({layout.page_size} tokens in {layers} layers); "
            "raise kv_bytes"
        )
    return pages
