"""Page memory in the order that a CPU reads fastest: head by head, and page after page."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from lragent.attention.base import PageViews

if TYPE_CHECKING:
    from lragent.cache.layout import PageLayout


def head_major_pages(
    count: int, layout: PageLayout, dtype: torch.dtype, device: torch.device | str = "cpu"
) -> PageViews:
    """Fresh pages of one layer, K, V_base and LR in tensors of their own.

    A page's rows of one head adjoin those of the next page, so that consecutive pages are one
    matrix ``[tokens, D]`` for each head. They take the bytes of pages in one tensor, less the
    padding. Memory is not cleared.

    Args:
        count: P, the number of pages.
        layout: their sizes.
        dtype: of the elements.
        device: where they lie.
    """

    def block() -> torch.Tensor:
        shape = (layout.kv_heads, count, layout.page_size, layout.head_dim)
        return torch.empty(shape, dtype=dtype, device=device).transpose(0, 1)

    lr = None
    if layout.slots and layout.lr_width:
        shape = (count, layout.page_size, layout.slots, layout.lr_width)
        lr = torch.empty(shape, dtype=dtype, device=device)
    return PageViews(block(), block(), lr)
