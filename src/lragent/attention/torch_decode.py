"""One query over long cached context in fp32, read where it lies.

Row j of every page in a run of consecutive pages is a matrix with one page's distance between its
rows. So a run is ``Hk * N`` matrices ``[pages, D]`` for one batched product, without any copy. The
scores of a head are ordered by row first and page second: ``[Hk, G, N, pages]``.

At this size every PyTorch call costs as much as some hundred tokens, so the code counts calls.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lragent.attention.base import PageViews
from lragent.attention.torch_plan import SequencePlan


class FlatPages(NamedTuple):
    """K and V blocks with the rows of all heads in one dimension: ``[P, Hk*N, D]``."""

    k: Tensor
    v: Tensor


def flat_pages(pages: PageViews) -> FlatPages | None:
    """Views of fp32 pages, or None when the heads and rows of a page do not adjoin."""
    size, width = pages.page_size, pages.head_dim
    for block in (pages.k, pages.v):
        if block.dtype != torch.float32 or block.stride()[1:] != (size * width, width, 1):
            return None
    return FlatPages(pages.k.flatten(1, 2), pages.v.flatten(1, 2))


def decode(
    q: Tensor,
    pages: PageViews,
    flat: FlatPages,
    plan: SequencePlan,
    slot: int,
    v_b: Tensor | None,
    scale: float,
    out: Tensor,
) -> None:
    """Attention of one query ``q [Hq, D]`` into ``out [Hq, D]``.

    Args:
        q: the query, fp32 like the pages.
        pages: K, V and LR blocks.
        flat: the same K and V.
        plan: the sequence's pages.
        slot: LR slot to read; unused without ``v_b``.
        v_b: ``[Hk, Rv, D]`` of the sequence's adapter, or None.
        scale: factor of the scores.
        out: result.
    """
    kv_heads, size, width = pages.kv_heads, pages.page_size, pages.head_dim
    group, count, tail = q.shape[0] // kv_heads, plan.pages, plan.tail
    shape = (kv_heads, group, size, count)

    each = q.view(kv_heads, 1, group, width).expand(-1, size, -1, -1).reshape(-1, group, width)
    scores = q.new_empty(shape)
    for part in plan.segments:
        product = q.new_empty(kv_heads * size, group, part.pages)
        product.baddbmm_(each, part.take(flat.k).permute(1, 2, 0), beta=0, alpha=scale)
        piece = product.view(kv_heads, size, group, part.pages).transpose(1, 2)
        scores.narrow(3, part.start, part.pages).copy_(piece)
    if tail:
        scores.select(3, count - 1).narrow(2, tail, size - tail).fill_(float("-inf"))
    if plan.skip:
        scores.select(3, 0).narrow(2, 0, plan.skip).fill_(float("-inf"))
    p = scores.view(-1, size * count).softmax(-1)

    # Rows beyond the tail may hold NaN, which a weight of zero would not hide: the partly filled
    # page is left out here and its tail is added below.
    by_row = p.view(shape)
    result = out.view(kv_heads, group, width)
    for index, part in enumerate(plan.segments):
        piece = by_row.narrow(3, part.start, part.full).transpose(1, 2)
        piece = piece.reshape(kv_heads * size, group, part.full)
        product = torch.bmm(piece, part.take(flat.v).transpose(0, 1).narrow(1, 0, part.full))
        product = product.view(kv_heads, size, group, width)
        if index == 0:
            torch.sum(product, 1, out=result)
        else:
            result += product.sum(1)
    if tail:
        weights = by_row.select(3, count - 1).narrow(2, 0, tail)
        result.baddbmm_(weights, pages.v.select(0, plan.last_page).narrow(1, 0, tail))
    if v_b is not None and pages.lr is not None:
        rank = v_b.shape[1]
        z = _z_by_row(pages.lr.select(2, slot).narrow(2, 0, rank), plan)
        pz = torch.mm(p, z).view(kv_heads, group, rank)
        result.baddbmm_(pz, v_b)


def _z_by_row(lr: Tensor, plan: SequencePlan) -> Tensor:
    """The LR rows of one slot, ``lr [P, N, R]``, in the order of the scores: ``[N*pages, R]``."""
    _, size, rank = lr.shape
    z = lr.new_empty(size, plan.pages, rank)
    for part in plan.segments:
        z.narrow(1, part.start, part.pages).copy_(part.take(lr).transpose(0, 1))
    if plan.tail:
        z.select(1, plan.pages - 1).narrow(0, plan.tail, size - plan.tail).zero_()
    return z.view(-1, rank)
