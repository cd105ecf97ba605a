"""Where a sequence's tokens lie, worked out once a batch and reused by every layer.

A sequence is cut into segments at fixed token counts. A segment whose pages have consecutive ids is
read as a strided view, any other is gathered. The cut depends on the length alone, so a result
does not change, not by one bit, with the pages that a sequence happens to get.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lragent.attention.base import AttentionBatch

SEGMENT_TOKENS = 2048


@dataclass(frozen=True)
class Segment:
    """Full pages of a sequence: a run of ids from ``first``, or any ids when that is None."""

    start: int
    pages: int
    first: int | None
    ids: Tensor | None

    def take(self, block: Tensor) -> Tensor:
        """The segment's pages of ``block [P, ...]``: a view of a run, else a copy."""
        if self.first is not None:
            return block.narrow(0, self.first, self.pages)
        assert self.ids is not None
        return block.index_select(0, self.ids)


@dataclass(frozen=True)
class SequencePlan:
    """The pages that one sequence's queries can see.

    Attributes:
        index: which sequence of the batch.
        first_query: its first row in the packed queries.
        queries: how many there are, at least 1.
        skip: tokens of the first page that lie before every query's window.
        full_pages: pages that are read as a whole, cut into ``segments``.
        last_page: the page of the ``tail`` tokens left over after the full pages, if any.
        tail: tokens in it, less than a page.
        mask: ``[queries, keys]`` fp32, 0 or -inf, over the keys after ``skip``; None when every
            query sees every key, or when ``causal``.
        causal: keys and queries are the same tokens.
        lora: the sequence reads an LR slot.
    """

    index: int
    first_query: int
    queries: int
    skip: int
    full_pages: int
    segments: tuple[Segment, ...]
    last_page: int
    tail: int
    mask: Tensor | None
    causal: bool
    lora: bool
    position: int
    """Position of the first token of the first page."""


def plan_batch(batch: AttentionBatch, page_size: int, window: int | None) -> list[SequencePlan]:
    """One plan for each sequence that has queries; kept on the batch."""
    key = ("torch", page_size, window)
    if key not in batch.plans:
        batch.plans[key] = [
            _plan(batch, index, page_size, window)
            for index in range(batch.num_sequences)
            if batch.host_cu_seqlens_q[index] < batch.host_cu_seqlens_q[index + 1]
        ]
    return batch.plans[key]


def _plan(batch: AttentionBatch, index: int, size: int, window: int | None) -> SequencePlan:
    first, last = batch.host_cu_seqlens_q[index : index + 2]
    tokens, queries = batch.host_seq_lens[index], last - first
    device = batch.seq_lens.device
    low = 0 if window is None else max(0, tokens - queries - window + 1)
    first_page, skip = divmod(low, size)
    full, tail = tokens // size - first_page, tokens % size
    table = batch.host_block_tables[index]
    step = max(1, SEGMENT_TOKENS // size)
    segments = tuple(
        _segment(start, table[first_page + start : first_page + min(start + step, full)], device)
        for start in range(0, full, step)
    )
    cut = window is not None and tokens > window
    causal = queries > 1 and queries == tokens and not cut
    return SequencePlan(
        index=index,
        first_query=first,
        queries=queries,
        skip=skip,
        full_pages=full,
        segments=segments,
        last_page=table[first_page + full] if tail else -1,
        tail=tail,
        mask=None if causal or queries == 1 else _mask(low, tokens, queries, window, device),
        causal=causal,
        lora=batch.uses_lora(index),
        position=first_page * size,
    )


def _segment(start: int, table: Sequence[int], device: torch.device) -> Segment:
    count = len(table)
    if list(table) == list(range(table[0], table[0] + count)):
        return Segment(start, count, table[0], None)
    return Segment(start, count, None, torch.tensor(table, device=device))


def _mask(low: int, tokens: int, queries: int, window: int | None, device: torch.device) -> Tensor:
    query = torch.arange(tokens - queries, tokens, device=device)[:, None]
    key = torch.arange(low, tokens, device=device)
    hidden = key > query
    if window is not None:
        hidden |= key <= query - window
    return torch.zeros(hidden.shape, device=device).masked_fill_(hidden, float("-inf"))
