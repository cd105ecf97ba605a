"""Where a sequence's tokens lie, worked out once a batch and reused by every layer.

A sequence is cut into segments. One whose pages have consecutive ids is read where it lies, any
other is gathered. The newest tokens are a short segment of their own: they often lie elsewhere than
the prefix that was found in the cache. The cut depends on the length alone, so a result does not
change, not by one bit, with the pages that a sequence happens to get.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lragent.attention.base import AttentionBatch

SEGMENT_TOKENS = 2048
NEWEST_TOKENS = 256
WHOLE_TOKENS = 1024
"""Up to so many tokens are one segment: a call more would cost as much as gathering them."""


@dataclass(frozen=True)
class Segment:
    """Some consecutive pages of a sequence.

    Attributes:
        start: index of its first page among the plan's pages.
        pages: how many pages, a partly filled last one included.
        full: how many of them are filled.
        first: id of the first page when the ids are consecutive, else None.
        ids: the ids when they are not.
    """

    start: int
    pages: int
    full: int
    first: int | None
    ids: Tensor | None

    def rows(self, block: Tensor) -> Tensor:
        """The segment's rows of ``block [P, H, N, C]``, head by head: ``[H, pages*N, C]``.

        A view where the pages are a run and the rows of a head adjoin from page to page.
        """
        if self.first is not None:
            pages = block.narrow(0, self.first, self.pages).transpose(0, 1)
        else:
            assert self.ids is not None
            by_head = block.transpose(0, 1)
            # picking out of a view whose memory has another order would copy the whole pool first
            if by_head.is_contiguous():
                pages = by_head.index_select(1, self.ids)
            else:
                pages = block.index_select(0, self.ids).transpose(0, 1)
        return pages.flatten(1, 2)


@dataclass(frozen=True)
class SequencePlan:
    """The pages that one sequence's queries can see.

    Attributes:
        index: which sequence of the batch.
        first_query: its first row in the packed queries.
        queries: how many there are, at least 1.
        position: of the first token of the first page.
        skip: tokens of the first page that lie before every query's window.
        pages: how many pages, a partly filled last one included.
        tail: tokens in the last page when it is partly filled, else 0.
        last_page: id of the last page.
        segments: the pages, cut.
        mask: ``[queries, keys]`` fp32, 0 or -inf, over the keys after ``skip``; None when every
            query sees every key, or when ``causal``.
        causal: keys and queries are the same tokens.
        lora: the sequence reads an LR slot.
    """

    index: int
    first_query: int
    queries: int
    position: int
    skip: int
    pages: int
    tail: int
    last_page: int
    segments: tuple[Segment, ...]
    mask: Tensor | None
    causal: bool
    lora: bool


def plan_batch(batch: AttentionBatch, page_size: int, window: int | None) -> list[SequencePlan]:
    """One plan for each sequence that has queries; kept on the batch."""
    return batch.once(_plan_all, (page_size, window), batch, page_size, window)


def _plan_all(batch: AttentionBatch, page_size: int, window: int | None) -> list[SequencePlan]:
    return [
        _plan(batch, index, page_size, window)
        for index in range(batch.num_sequences)
        if batch.host_cu_seqlens_q[index] < batch.host_cu_seqlens_q[index + 1]
    ]


def _plan(batch: AttentionBatch, index: int, size: int, window: int | None) -> SequencePlan:
    first, last = batch.host_cu_seqlens_q[index : index + 2]
    tokens, queries = batch.host_seq_lens[index], last - first
    device = batch.seq_lens.device
    low = 0 if window is None else max(0, tokens - queries - window + 1)
    first_page, skip = divmod(low, size)
    tail = tokens % size
    table = batch.host_block_tables[index][first_page : -(-tokens // size)]
    causal = queries > 1 and queries == tokens and (window is None or tokens <= window)
    return SequencePlan(
        index=index,
        first_query=first,
        queries=queries,
        position=first_page * size,
        skip=skip,
        pages=len(table),
        tail=tail,
        last_page=table[-1],
        segments=tuple(
            _segment(start, table[start:stop], tail > 0, len(table), device)
            for start, stop in itertools.pairwise(_cuts(len(table), size))
        ),
        mask=None if causal or queries == 1 else _mask(low, tokens, queries, window, device),
        causal=causal,
        lora=batch.uses_lora(index),
    )


def _cuts(pages: int, size: int) -> list[int]:
    """The pages where segments begin and end.

    The last segment has one to two times `NEWEST_TOKENS`, the one before it up to half more than
    `SEGMENT_TOKENS`, so that none is tiny.
    """
    if pages * size <= WHOLE_TOKENS:
        return [0, pages]
    newest = -(-NEWEST_TOKENS // size)
    last = (pages // newest - 1) * newest
    step = max(1, SEGMENT_TOKENS // size)
    return [*range(0, max(1, last - step // 2), step), last, pages]


def _segment(
    start: int, ids: Sequence[int], has_tail: bool, pages: int, device: torch.device
) -> Segment:
    count = len(ids)
    full = count - 1 if has_tail and start + count == pages else count
    if list(ids) == list(range(ids[0], ids[0] + count)):
        return Segment(start, count, full, ids[0], None)
    return Segment(start, count, full, None, torch.tensor(ids, device=device))


def _mask(low: int, tokens: int, queries: int, window: int | None, device: torch.device) -> Tensor:
    query = torch.arange(tokens - queries, tokens, device=device)[:, None]
    key = torch.arange(low, tokens, device=device)
    hidden = key > query
    if window is not None:
        hidden |= key <= query - window
    return torch.zeros(hidden.shape, device=device).masked_fill_(hidden, float("-inf"))
