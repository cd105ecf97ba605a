"""Problems larger than the L2 cache and timings by CUDA graph, for tuning and for benchmarks."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lragent.attention.base import AttentionBatch, KeyRotation, LoraTables, PageViews, page_views
from lragent.attention.gpu.layer import Layer, Sequences
from lragent.cache.layout import PageLayout

ROTATE_BYTES = 160 * 1024 * 1024
"""Different data that one round of calls must touch, so that L2 never serves a repeat."""


def copies(moved: int) -> int:
    """How many calls on different data make a round that L2 cannot serve.

    A call of a few kilobytes is not repeated often enough for that: a graph holds 2,048 at most.

    Args:
        moved: bytes that one call touches.
    """
    return max(1, min(2048, -(-ROTATE_BYTES // moved)))


@dataclass(frozen=True)
class Timing:
    """Time of one call in microseconds: median, 20th and 80th percentile over replays."""

    median: float
    p20: float
    p80: float


class Pool:
    """One layer's pages, random and shuffled, with LoRA tables: where timed problems live.

    Args:
        tokens: capacity.
        heads: query heads.
        kv_heads: KV heads.
        head_dim: width of a head.
        v_rank: value rank.
        k_rank: key rank, 0 for none.
        slots: LR slots of a page.
        page_size: tokens of a page.
        dtype: of everything but the rotation.
    """

    def __init__(
        self,
        tokens: int,
        *,
        heads: int = 32,
        kv_heads: int = 8,
        head_dim: int = 128,
        v_rank: int = 16,
        k_rank: int = 0,
        slots: int = 1,
        page_size: int = 16,
        dtype: torch.dtype = torch.bfloat16,
    ) -> None:
        layout = PageLayout(page_size, kv_heads, head_dim, slots, v_rank, k_rank, dtype.itemsize)
        device = torch.device("cuda")
        self.heads, self.page_size = heads, page_size
        self.num_pages = tokens // page_size
        raw = torch.empty(self.num_pages, layout.page_elements, dtype=dtype, device=device)
        for part in raw.split(4096):
            part.normal_()
        self.pages: PageViews = page_views(raw, layout)
        self.order = torch.randperm(self.num_pages, device=device).to(torch.int32)
        width = kv_heads * head_dim
        self.tables = LoraTables(_table(v_rank, width, dtype), _table(k_rank, width, dtype))
        positions = 40_000
        inverse = 10000.0 ** (-torch.arange(0, head_dim, 2, device=device) / head_dim)
        angles = torch.arange(positions, device=device)[:, None] * inverse[None, :]
        angles = torch.cat((angles, angles), 1)
        self.rotation = KeyRotation(angles.cos(), angles.sin()) if k_rank else None
        self.token_bytes = (2 * width + slots * (v_rank + k_rank)) * dtype.itemsize

    def cases(self, queries: Sequence[int], contexts: Sequence[int]) -> list[Case]:
        """Copies of one batch over different pages, enough that L2 does not serve repeats."""
        moved = sum(contexts) * self.token_bytes
        return [self._case(number, queries, contexts) for number in range(copies(moved))]

    def _case(self, number: int, queries: Sequence[int], contexts: Sequence[int]) -> Case:
        needed = [-(-tokens // self.page_size) for tokens in contexts]
        start = number * sum(needed)
        width = max(needed)
        where = torch.zeros(len(needed), width, dtype=torch.int64)
        for row, pages in enumerate(needed):
            where[row, :pages] = torch.arange(start, start + pages) % self.num_pages
            start += pages
        # The host copies of the tables are not needed for timing and would be large.
        batch = AttentionBatch.build(
            [[] for _ in needed],
            queries,
            contexts,
            [0 if self.pages.lr is not None else -1] * len(needed),
            [0 if self.pages.lr is not None else -1] * len(needed),
            device="cuda",
            max_pages=width,
        )
        batch.block_tables = self.order[where.cuda()]
        q = torch.randn(
            sum(queries), self.heads, self.pages.head_dim, device="cuda", dtype=self.pages.k.dtype
        )
        return Case(self, q, torch.empty_like(q), batch)


def _table(rank: int, width: int, dtype: torch.dtype) -> Tensor | None:
    if not rank:
        return None
    return (torch.randn(4, rank, width, device="cuda") * rank**-0.5).to(dtype)


@dataclass(frozen=True)
class Case:
    """One attention call of a pool."""

    pool: Pool
    q: Tensor
    out: Tensor
    batch: AttentionBatch

    @property
    def scale(self) -> float:
        """Softmax scale."""
        return self.q.shape[2] ** -0.5

    @property
    def layer(self) -> Layer:
        """The layer as the launches take it."""
        return Layer.of(self.pool.pages, self.pool.tables, self.pool.rotation)

    @property
    def sequences(self) -> Sequences:
        """The batch as the launches take it."""
        return Sequences.of(self.batch)


def time_calls(calls: Sequence[Callable[[], object]], replays: int = 11) -> Timing:
    """Time per call of a CUDA graph that holds all ``calls`` one after the other."""
    return time_together([calls], replays)[0]


def time_together(
    variants: Sequence[Sequence[Callable[[], object]]], replays: int = 11
) -> list[Timing]:
    """`time_calls` of several variants whose replays take turns: clocks and heat are alike.

    Each call runs once before its capture, so compilation and buffers stay outside.
    """
    graphs = [_capture(calls) for calls in variants]
    times: list[list[float]] = [[] for _ in graphs]
    for _ in range(replays):
        for graph, calls, own in zip(graphs, variants, times, strict=True):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            graph.replay()
            end.record()
            end.synchronize()
            own.append(begin.elapsed_time(end) * 1000 / len(calls))
    fifths = [statistics.quantiles(own, n=5) for own in times]
    return [
        Timing(statistics.median(own), cut[0], cut[3])
        for own, cut in zip(times, fifths, strict=True)
    ]


def _capture(calls: Sequence[Callable[[], object]]) -> torch.cuda.CUDAGraph:
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for call in calls:
            call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        for call in calls:
            call()
    graph.replay()
    return graph
