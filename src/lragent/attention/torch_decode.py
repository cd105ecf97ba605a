"""One query over long cached context in fp32, read where it lies.

Row j of every page in a run of consecutive pages is a matrix with one page's distance between its
rows. So a run is ``Hk * N`` matrices ``[pages, D]`` for one batched product, without any copy. The
scores of a head are ordered by row first and page second: ``[Hk, G, N, pages]``.

At this size a PyTorch call costs as much as a hundred tokens. So a sequence's buffers and all views
of them are made once a batch, and a layer makes only those of its own pages.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lragent.attention.base import PageViews
from lragent.attention.torch_plan import Segment, SequencePlan


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


class _Part(NamedTuple):
    """Buffers of one segment and their other views; R = Hk*N rows.

    Attributes:
        segment: its pages.
        product: ``[R, G, pages]``, the scores as the product gives them.
        product_by_head: the same, ``[Hk, G, N, pages]``.
        scores: its columns of all scores, ``[Hk, G, N, pages]``.
        p: its filled pages' columns of all probabilities, ``[Hk, N, G, full]``.
        weights: ``[R, G, full]``, those as the product takes them.
        weights_by_head: the same, ``[Hk, N, G, full]``.
        result: ``[R, G, D]``.
        result_by_head: the same, ``[Hk, N, G, D]``.
    """

    segment: Segment
    product: Tensor
    product_by_head: Tensor
    scores: Tensor
    p: Tensor
    weights: Tensor
    weights_by_head: Tensor
    result: Tensor
    result_by_head: Tensor


class Decoder:
    """Attention of one sequence's single query, for every layer of a step.

    Args:
        plan: the sequence's pages.
        pages: any layer's pages, for their sizes.
        group: query heads for each key head.
    """

    def __init__(self, plan: SequencePlan, pages: PageViews, group: int) -> None:
        self.plan = plan
        self.kv_heads, self.size, self.width = pages.kv_heads, pages.page_size, pages.head_dim
        self.group = group
        heads, size, count, new = self.kv_heads, self.size, plan.pages, pages.k.new_empty
        self.query_by_head = new(heads, size, group, self.width)
        self.query = self.query_by_head.view(heads * size, group, self.width)
        self.scores = new(heads * group, size * count)
        self.p = torch.empty_like(self.scores)
        by_row, p_by_row = (x.view(heads, group, size, count) for x in (self.scores, self.p))
        self.parts = [self._part(part, by_row, p_by_row) for part in plan.segments]
        self.never_seen = []
        if plan.tail:
            last = by_row[..., count - 1]
            self.never_seen.append(last[..., plan.tail :])
            self.tail_p = p_by_row[..., : plan.tail, count - 1]
        if plan.skip:
            self.never_seen.append(by_row[..., : plan.skip, 0])

    def _part(self, part: Segment, scores: Tensor, p: Tensor) -> _Part:
        heads, size, group, width = self.kv_heads, self.size, self.group, self.width
        rows = heads * size
        product = scores.new_empty(rows, group, part.pages)
        weights = scores.new_empty(rows, group, part.full)
        result = scores.new_empty(rows, group, width)
        return _Part(
            segment=part,
            product=product,
            product_by_head=product.view(heads, size, group, part.pages).transpose(1, 2),
            scores=scores.narrow(3, part.start, part.pages),
            p=p.narrow(3, part.start, part.full).transpose(1, 2),
            weights=weights,
            weights_by_head=weights.view(heads, size, group, part.full),
            result=result,
            result_by_head=result.view(heads, size, group, width),
        )

    def __call__(
        self,
        q: Tensor,
        pages: PageViews,
        flat: FlatPages,
        slot: int,
        v_b: Tensor | None,
        scale: float,
        out: Tensor,
    ) -> None:
        """Attention of ``q [Hq, D]`` into ``out [Hq, D]``.

        Args:
            q: the query, fp32 like the pages.
            pages: one layer's K, V and LR blocks.
            flat: the same K and V.
            slot: LR slot to read; unused without ``v_b``.
            v_b: ``[Hk, Rv, D]`` of the sequence's adapter, or None.
            scale: factor of the scores.
            out: result.
        """
        plan = self.plan
        self.query_by_head.copy_(q.view(self.kv_heads, 1, self.group, self.width))
        for part in self.parts:
            k = part.segment.take(flat.k).permute(1, 2, 0)
            part.product.baddbmm_(self.query, k, beta=0, alpha=scale)
            part.scores.copy_(part.product_by_head)
        for places in self.never_seen:
            places.fill_(float("-inf"))
        torch.softmax(self.scores, -1, out=self.p)

        # Rows beyond the tail may hold NaN, which a weight of zero would not hide: the partly
        # filled page is left out here and its tail is added below.
        result = out.view(self.kv_heads, self.group, self.width)
        for index, part in enumerate(self.parts):
            v = part.segment.take(flat.v).transpose(0, 1)
            if plan.tail:
                v = v.narrow(1, 0, part.segment.full)
            part.weights_by_head.copy_(part.p)
            torch.bmm(part.weights, v, out=part.result)
            if index == 0:
                torch.sum(part.result_by_head, 1, out=result)
            else:
                result += part.result_by_head.sum(1)
        if plan.tail:
            result.baddbmm_(self.tail_p, self._tail(pages.v))
        if v_b is not None and pages.lr is not None:
            z = self._z(pages.lr.select(2, slot).narrow(2, 0, v_b.shape[1]))
            result.baddbmm_(torch.mm(self.p, z).view(self.kv_heads, self.group, -1), v_b)

    def _tail(self, block: Tensor) -> Tensor:
        return block.select(0, self.plan.last_page).narrow(1, 0, self.plan.tail)

    def _z(self, lr: Tensor) -> Tensor:
        """One slot's rows ``lr [P, N, R]`` in the order of the scores: ``[N*pages, R]``."""
        plan, rank = self.plan, lr.shape[2]
        z = lr.new_empty(self.size, plan.pages, rank)
        for part in plan.segments:
            z.narrow(1, part.start, part.pages).copy_(part.take(lr).transpose(0, 1))
        if plan.tail:
            z.select(1, plan.pages - 1).narrow(0, plan.tail, self.size - plan.tail).zero_()
        return z.view(-1, rank)
