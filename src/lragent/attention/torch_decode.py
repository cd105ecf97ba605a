"""One query over long cached context in fp32, read where it lies.

Row j of every page in a run of consecutive pages is a matrix with one page's distance between its
rows. So a run is ``Hk * N`` matrices ``[pages, D]`` for one batched product, without any copy; the
scores come out as ``[Hk, N, G, pages]``, tokens ordered by row first and page second.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lragent.attention.base import PageViews
from lragent.attention.torch_plan import Segment, SequencePlan


def decode(
    q: Tensor,
    pages: PageViews,
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
        plan: the sequence's pages.
        slot: LR slot to read; unused without ``v_b``.
        v_b: ``[Rv, Hk*D]`` of the sequence's adapter, or None.
        scale: factor of the scores.
        out: result.
    """
    kv_heads, size, width = pages.kv_heads, pages.page_size, pages.head_dim
    group = q.shape[0] // kv_heads
    full, tail = plan.full_pages, plan.tail
    body = full * size
    q = (q * scale).view(kv_heads, group, width)

    scores = q.new_empty(kv_heads, group, body + tail)
    by_row = scores[..., :body].view(kv_heads, group, size, full)
    if full:
        each = q[:, None].expand(-1, size, -1, -1).reshape(kv_heads * size, group, width)
    for segment in plan.segments:
        product = torch.bmm(each, _by_row(pages.k, segment).transpose(1, 2))
        _columns(by_row, segment).copy_(product.view(kv_heads, size, group, -1).transpose(1, 2))
    if tail:
        k_tail = pages.k[plan.last_page, :, :tail]
        scores[..., body:] = torch.bmm(q, k_tail.transpose(1, 2))
    if plan.skip:
        first = by_row[..., 0] if full else scores
        first[..., : plan.skip] = float("-inf")
    p = scores.softmax(-1)

    by_row = p[..., :body].view(kv_heads, group, size, full)
    result = None
    if tail:
        result = torch.bmm(p[..., body:], pages.v[plan.last_page, :, :tail])
    for segment in plan.segments:
        weights = _columns(by_row, segment).transpose(1, 2).reshape(kv_heads * size, group, -1)
        product = torch.bmm(weights, _by_row(pages.v, segment))
        part = product.view(kv_heads, size, group, width).sum(1)
        result = part if result is None else result.add_(part)
    assert result is not None
    if v_b is not None and pages.lr is not None:
        rank = v_b.shape[0]
        z = _z_by_row(pages.lr, plan, slot, rank, size)
        pz = torch.mm(p.view(-1, body + tail), z).view(kv_heads, group, rank)
        result.baddbmm_(pz, v_b.view(rank, kv_heads, width).transpose(0, 1))
    out.copy_(result.view(-1, width))


def _by_row(block: Tensor, segment: Segment) -> Tensor:
    """The segment's pages ``[pages, Hk, N, D]`` as ``[Hk*N, pages, D]``, not copied from a run."""
    taken = segment.take(block)
    count, heads, size, width = taken.shape
    return taken.view(count, heads * size, width).transpose(0, 1)


def _columns(by_row: Tensor, segment: Segment) -> Tensor:
    return by_row.narrow(3, segment.start, segment.pages)


def _z_by_row(lr: Tensor, plan: SequencePlan, slot: int, rank: int, size: int) -> Tensor:
    """The LR rows ``[tokens, rank]`` in the order of the scores."""
    body = plan.full_pages * size
    z = lr.new_empty(body + plan.tail, rank)
    by_row = z[:body].view(size, plan.full_pages, rank)
    for segment in plan.segments:
        rows = segment.take(lr[:, :, slot, :rank]).transpose(0, 1)
        by_row.narrow(1, segment.start, segment.pages).copy_(rows)
    if plan.tail:
        z[body:] = lr[plan.last_page, : plan.tail, slot, :rank]
    return z
