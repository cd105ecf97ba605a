"""Random attention problems: dense tensors, the pages that hold them, and the dense formula."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lragent.attention import (
    AttentionBatch,
    KeyRotation,
    LoraTables,
    PageViews,
    head_major_pages,
    page_views,
)
from lragent.cache.layout import PageLayout

Memory = Literal["page", "separate", "head-major"]


@dataclass(frozen=True)
class Case:
    """Sizes of a problem; ``lens`` holds (queries, tokens) of each sequence."""

    lens: tuple[tuple[int, int], ...] = ((1, 37), (5, 20), (16, 16))
    adapters: tuple[int, ...] = (0, 1, -1)
    kv_heads: int = 2
    group: int = 3
    head_dim: int = 64
    page_size: int = 16
    v_rank: int = 8
    k_rank: int = 0
    slots: int = 2
    window: int | None = None
    dtype: torch.dtype = torch.float32
    scattered: bool = True
    memory: Memory = "page"

    def __str__(self) -> str:
        lens = ",".join(f"{q}of{n}" for q, n in self.lens)
        name = str(self.dtype).removeprefix("torch.")
        memory = "" if self.memory == "page" else f"-{self.memory}"
        adapters = "".join("n" if a < 0 else str(a) for a in self.adapters)
        return (
            f"{name}-L{lens}-A{adapters}-H{self.kv_heads}x{self.group}-D{self.head_dim}"
            f"-N{self.page_size}-R{self.v_rank}+{self.k_rank}-M{self.slots}-W{self.window or 0}"
            f"{'-run' if not self.scattered else ''}{memory}"
        )


@dataclass(frozen=True)
class Problem:
    """A case filled with numbers; ``k``, ``v``, ``z`` are the dense tensors of each sequence."""

    case: Case
    q: Tensor
    k: list[Tensor]
    v: list[Tensor]
    z: list[Tensor]
    pages: PageViews
    batch: AttentionBatch
    tables: LoraTables
    rotation: KeyRotation | None

    @property
    def scale(self) -> float:
        return self.case.head_dim**-0.5


def nan_pages(layout: PageLayout, count: int, dtype: torch.dtype) -> Tensor:
    """Page memory as `torch.empty` may hand it out at its worst."""
    return torch.full((count, layout.page_elements), float("nan"), dtype=dtype)


def nan_memory(layout: PageLayout, count: int, dtype: torch.dtype, memory: Memory) -> PageViews:
    """NaN-filled pages in one of the orders that pages may have."""
    if memory == "head-major":
        pages = head_major_pages(count, layout, dtype)
        for block in (pages.k, pages.v, pages.lr):
            if block is not None:
                block.fill_(float("nan"))
        return pages
    pages = page_views(nan_pages(layout, count, dtype), layout)
    if memory == "page":
        return pages
    lr = None if pages.lr is None else pages.lr.contiguous()
    return PageViews(pages.k.contiguous(), pages.v.contiguous(), lr)


def make(case: Case, seed: int = 0) -> Problem:
    gen = torch.Generator().manual_seed(seed)

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=gen).to(case.dtype)

    layout = PageLayout(
        page_size=case.page_size,
        kv_heads=case.kv_heads,
        head_dim=case.head_dim,
        slots=case.slots,
        v_rank=case.v_rank,
        k_rank=case.k_rank,
        itemsize=case.dtype.itemsize,
    )
    needed = [-(-tokens // case.page_size) for _, tokens in case.lens]
    ids = list(range(1, sum(needed) + 1))
    if case.scattered:
        random.Random(seed).shuffle(ids)
    tables = [[ids.pop(0) for _ in range(count)] for count in needed]
    pages = nan_memory(layout, sum(needed) + 2, case.dtype, case.memory)
    k = [randn(n, case.kv_heads, case.head_dim) for _, n in case.lens]
    v = [randn(n, case.kv_heads, case.head_dim) for _, n in case.lens]
    z = [randn(n, case.v_rank + case.k_rank) for _, n in case.lens]
    slots = [-1 if a < 0 else (a + 1) % case.slots for a in case.adapters]
    for s, (_, tokens) in enumerate(case.lens):
        for t in range(tokens):
            page, row = tables[s][t // case.page_size], t % case.page_size
            pages.k[page, :, row], pages.v[page, :, row] = k[s][t], v[s][t]
            if slots[s] >= 0 and pages.lr is not None:
                pages.lr[page, row, slots[s]] = z[s][t]
    width = case.kv_heads * case.head_dim
    count = max(case.adapters) + 1
    rotation = None
    if case.k_rank:
        angles = torch.rand(max(n for _, n in case.lens), case.head_dim, generator=gen) * 6.28
        rotation = KeyRotation(angles.cos(), angles.sin())
    return Problem(
        case=case,
        q=randn(sum(new for new, _ in case.lens), case.kv_heads * case.group, case.head_dim),
        k=k,
        v=v,
        z=z,
        pages=pages,
        batch=AttentionBatch.build(
            tables, [n for n, _ in case.lens], [n for _, n in case.lens], case.adapters, slots
        ),
        tables=LoraTables(
            randn(count, case.v_rank, width) * 0.5 if case.v_rank and count else None,
            randn(count, case.k_rank, width) * 0.5 if case.k_rank and count else None,
        ),
        rotation=rotation,
    )


def dense(problem: Problem, dtype: torch.dtype) -> Tensor:
    """The paper's formula on dense tensors, ``softmax(q K^T) (V + z B)``, all in ``dtype``.

    Plain PyTorch: expanded values, whole score matrix, whole masks. No pages, nothing from the
    package.
    """
    case, parts = problem.case, []
    start = 0
    for s, (new, tokens) in enumerate(case.lens):
        q = problem.q[start : start + new].to(dtype)
        start += new
        k, v, z = (x[s].to(dtype) for x in (problem.k, problem.v, problem.z))
        adapter = case.adapters[s]
        if adapter >= 0 and problem.tables.v_b is not None:
            v = v + (z[:, : case.v_rank] @ problem.tables.v_b[adapter].to(dtype)).view_as(v)
        if adapter >= 0 and problem.tables.k_b is not None and problem.rotation is not None:
            term = (z[:, case.v_rank :] @ problem.tables.k_b[adapter].to(dtype)).view_as(k)
            cos = problem.rotation.cos[:tokens, None].to(dtype)
            sin = problem.rotation.sin[:tokens, None].to(dtype)
            half = case.head_dim // 2
            turned = torch.cat((-term[..., half:], term[..., :half]), -1)
            k = k + term * cos + turned * sin
        k, v = (x.repeat_interleave(case.group, 1).transpose(0, 1) for x in (k, v))
        scores = q.transpose(0, 1) @ k.transpose(1, 2) * problem.scale
        seen = torch.ones(tokens, tokens, dtype=torch.bool).tril()
        if case.window is not None:
            seen &= ~torch.ones(tokens, tokens, dtype=torch.bool).tril(-case.window)
        scores = scores.masked_fill(~seen[tokens - new :], float("-inf"))
        parts.append((scores.softmax(-1) @ v).transpose(0, 1))
    return torch.cat(parts)


def tolerance(problem: Problem, exact: Tensor) -> float:
    """Twice the largest error of plain PyTorch in the case's dtype, plus a rounding floor.

    The floor is what storing the exact result in that dtype costs at its largest entry.
    """
    if not exact.numel():
        return 0.0
    plain = (dense(problem, problem.case.dtype).double() - exact).abs().max().item()
    floor = torch.finfo(problem.case.dtype).eps * exact.abs().max().item()
    return 2 * plain + floor
