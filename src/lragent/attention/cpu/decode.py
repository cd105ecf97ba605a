"""One query over long cached context in fp32, read where it lies.

Where pages hold one head's rows next to the next page's (`lragent.attention.head_major_pages`), a
run of consecutive pages is one matrix ``[tokens, D]`` for each key head, and two batched products
read it without a copy. From any other layout, and for scattered pages, the rows are gathered first.

At this size a PyTorch call costs as much as a hundred tokens, so a sequence's buffers are made once
a batch and shared by its layers.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lragent.attention.base import PageViews
from lragent.attention.cpu.plan import Segment, SequencePlan


class _Part(NamedTuple):
    """One segment and its columns in the sequence's buffers.

    Attributes:
        segment: its pages.
        skip: rows of its first page that the query does not see.
        tokens: rows after those that it sees.
        scores, p: ``[Hk, G, tokens]``.
        p_all: the same as ``p`` for all heads at once, ``[Hq, tokens]``.
    """

    segment: Segment
    skip: int
    tokens: int
    scores: Tensor
    p: Tensor
    p_all: Tensor

    def rows(self, block: Tensor) -> Tensor:
        """The rows of ``block [P, Hk, N, D]`` that the query sees: ``[Hk, tokens, D]``."""
        return self.segment.rows(block).narrow(1, self.skip, self.tokens)

    def z(self, lr: Tensor) -> Tensor:
        """The same of one slot's ``lr [P, N, R]``: ``[tokens, R]``."""
        return self.rows(lr.unsqueeze(1))[0]


class Decoder:
    """Attention of one sequence's single query, for every layer of a step.

    Args:
        plan: the sequence's pages.
        pages: any layer's pages, for their sizes.
        group: query heads for each key head.
    """

    def __init__(self, plan: SequencePlan, pages: PageViews, group: int) -> None:
        heads, size = pages.kv_heads, pages.page_size
        self.kv_heads, self.group = heads, group
        end = plan.pages * size - (size - plan.tail if plan.tail else 0)
        self.scores = pages.k.new_empty(heads, group, end - plan.skip)
        self.p = torch.empty_like(self.scores)
        self.parts = []
        for segment in plan.segments:
            first = max(segment.start * size, plan.skip)
            last = min((segment.start + segment.pages) * size, end)
            place = (2, first - plan.skip, last - first)
            p = self.p.narrow(*place)
            self.parts.append(
                _Part(
                    segment=segment,
                    skip=first - segment.start * size,
                    tokens=last - first,
                    scores=self.scores.narrow(*place),
                    p=p,
                    p_all=p.flatten(0, 1),
                )
            )

    def __call__(
        self, q: Tensor, pages: PageViews, slot: int, v_b: Tensor | None, scale: float, out: Tensor
    ) -> None:
        """Attention of ``q [Hq, D]`` into ``out [Hq, D]``.

        Args:
            q: the query, fp32 like the pages.
            pages: one layer's K, V and LR blocks.
            slot: LR slot to read; unused without ``v_b``.
            v_b: ``[Hk, R, D]`` of the sequence's adapter, or None.
            scale: factor of the scores.
            out: result.
        """
        query = q.view(self.kv_heads, self.group, -1)
        result = out.view(query.shape)
        for part in self.parts:
            part.scores.baddbmm_(query, part.rows(pages.k).transpose(1, 2), beta=0, alpha=scale)
        torch.softmax(self.scores, -1, out=self.p)
        for index, part in enumerate(self.parts):
            result.baddbmm_(part.p, part.rows(pages.v), beta=0 if index == 0 else 1)
        if v_b is not None and pages.lr is not None:
            lr = pages.lr.select(2, slot).narrow(2, 0, v_b.shape[1])
            pz = sum(torch.mm(part.p_all, part.z(lr)) for part in self.parts)
            assert isinstance(pz, Tensor)
            result.baddbmm_(pz.view(self.kv_heads, self.group, -1), v_b)
