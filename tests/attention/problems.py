"""Random attention problems for every implementation, the dense formula and the tolerance."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from lragent.attention import (
    AttentionBatch,
    Implementation,
    KeyRotation,
    LoraTables,
    PageViews,
    flash_lora_attention,
    head_major_pages,
    page_views,
)
from lragent.cache.layout import PageLayout

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
"""Where the Triton kernels run: in Triton's interpreter when it is the CPU."""
HALF = torch.bfloat16 if torch.cuda.is_available() else torch.float16
"""The interpreter multiplies no matrices of bfloat16."""

Memory = Literal["page", "separate", "head-major"]


@dataclass(frozen=True)
class Case:
    """Sizes of a problem; ``lens`` holds (queries, tokens) of each sequence.

    ``adapters`` are dealt out to the sequences in turn, -1 for none.
    """

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
    rope_factor: float = 1.0
    dtype: torch.dtype = torch.float32
    scattered: bool = True
    memory: Memory = "page"

    def __str__(self) -> str:
        lens = ",".join(f"{q}of{n}" for q, n in self.lens)
        name = str(self.dtype).removeprefix("torch.")
        memory = "" if self.memory == "page" else f"-{self.memory}"
        adapters = "".join("n" if a < 0 else str(a) for a in self.adapters)
        factor = "" if self.rope_factor == 1.0 else f"-F{self.rope_factor:g}"
        return (
            f"{name}-L{lens}-A{adapters}-H{self.kv_heads}x{self.group}-D{self.head_dim}"
            f"-N{self.page_size}-R{self.v_rank}+{self.k_rank}-M{self.slots}-W{self.window or 0}"
            f"{factor}{'-run' if not self.scattered else ''}{memory}"
        )

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence."""
        return max((tokens for _, tokens in self.lens), default=0)

    def adapter(self, sequence: int) -> int:
        """The sequence's row in the LoRA tables, or -1."""
        return self.adapters[sequence % len(self.adapters)]


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


def device_of(implementation: Implementation) -> torch.device:
    """Where an implementation is tested."""
    return DEVICE if implementation == "triton" else torch.device("cpu")


def nan_memory(
    layout: PageLayout,
    count: int,
    dtype: torch.dtype,
    memory: Memory = "page",
    device: torch.device | str = "cpu",
) -> PageViews:
    """Pages in one of the orders they may have, filled as `torch.empty` may at its worst."""
    if memory == "head-major":
        pages = head_major_pages(count, layout, dtype, device)
        for block in (pages.k, pages.v, pages.lr):
            if block is not None:
                block.fill_(float("nan"))
        return pages
    raw = torch.full((count, layout.page_elements), float("nan"), dtype=dtype, device=device)
    pages = page_views(raw, layout)
    if memory == "page":
        return pages
    lr = None if pages.lr is None else pages.lr.contiguous()
    return PageViews(pages.k.contiguous(), pages.v.contiguous(), lr)


def rotation_tables(case: Case, device: torch.device | str) -> KeyRotation:
    """RoPE, its positions divided by the case's factor, with YaRN's attention factor folded in."""
    attention_factor = 1 + 0.1 * math.log(case.rope_factor)
    inverse = 10000.0 ** (-torch.arange(0, case.head_dim, 2, dtype=torch.float64) / case.head_dim)
    positions = torch.arange(max(case.longest, 1), dtype=torch.float64) / case.rope_factor
    angles = torch.outer(positions, inverse).repeat(1, 2)
    cos, sin = (table.mul(attention_factor).float() for table in (angles.cos(), angles.sin()))
    return KeyRotation(cos.to(device), sin.to(device))


def make(case: Case, seed: int = 0, device: torch.device | str = "cpu") -> Problem:
    """A problem in which every row, slot and page that must not be read is NaN."""
    gen = torch.Generator().manual_seed(seed)

    def randn(*shape: int, std: float = 1.0) -> Tensor:
        return (torch.randn(*shape, generator=gen) * std).to(case.dtype).to(device)

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
    block_tables = [[ids.pop(0) for _ in range(count)] for count in needed]
    adapters = [case.adapter(s) for s in range(len(case.lens))]
    slots = [-1 if a < 0 else (s + 1) % case.slots for s, a in enumerate(adapters)]
    pages = nan_memory(layout, sum(needed) + 2, case.dtype, case.memory, device)
    k = [randn(n, case.kv_heads, case.head_dim) for _, n in case.lens]
    v = [randn(n, case.kv_heads, case.head_dim) for _, n in case.lens]
    z = [randn(n, case.v_rank + case.k_rank) for _, n in case.lens]
    for s, (_, tokens) in enumerate(case.lens):
        token = torch.arange(tokens)
        page = torch.tensor(block_tables[s], dtype=torch.int64)[token // case.page_size]
        page, row = page.to(device), (token % case.page_size).to(device)
        pages.k[page, :, row], pages.v[page, :, row] = k[s], v[s]
        if slots[s] >= 0 and pages.lr is not None:
            pages.lr[page, row, slots[s]] = z[s]
    width = case.kv_heads * case.head_dim
    count = max(case.adapters) + 1

    def table(rank: int) -> Tensor | None:
        return randn(count, rank, width, std=rank**-0.5) if rank and count else None

    return Problem(
        case=case,
        q=randn(sum(new for new, _ in case.lens), case.kv_heads * case.group, case.head_dim),
        k=k,
        v=v,
        z=z,
        pages=pages,
        batch=AttentionBatch.build(
            block_tables,
            [new for new, _ in case.lens],
            [tokens for _, tokens in case.lens],
            adapters,
            slots,
            device=device,
        ),
        tables=LoraTables(table(case.v_rank), table(case.k_rank)),
        rotation=rotation_tables(case, device) if case.k_rank else None,
    )


def without_adapters(problem: Problem) -> Problem:
    """The same pages and queries for sequences without adapters."""
    batch = problem.batch
    none, index = [-1] * batch.num_sequences, torch.full_like(batch.adapter_index, -1)
    return replace(
        problem,
        case=replace(problem.case, adapters=(-1,)),
        batch=replace(
            batch,
            adapter_index=index,
            lr_slot=index,
            host_adapter_index=none,
            host_lr_slot=none,
        ),
    )


def run(problem: Problem, implementation: Implementation, out: Tensor | None = None) -> Tensor:
    """The problem's answer by an implementation, into memory full of NaN by default."""
    out = torch.full_like(problem.q, float("nan")) if out is None else out
    result = flash_lora_attention(
        problem.q,
        problem.pages,
        problem.batch,
        problem.tables,
        scale=problem.scale,
        sliding_window=problem.case.window,
        rotation=problem.rotation,
        implementation=implementation,
        out=out,
    )
    assert result is out
    return result


def expanded(problem: Problem, dtype: torch.dtype) -> list[tuple[Tensor, Tensor]]:
    """Each sequence's K and V ``[L, Hk, D]`` with its adapter's terms, all in ``dtype``."""
    case, found = problem.case, []
    for s, (_, tokens) in enumerate(case.lens):
        k, v, z = (x[s].to(dtype) for x in (problem.k, problem.v, problem.z))
        adapter = case.adapter(s)
        if adapter >= 0 and problem.tables.v_b is not None:
            v = v + (z[:, : case.v_rank] @ problem.tables.v_b[adapter].to(dtype)).view_as(v)
        if adapter >= 0 and problem.tables.k_b is not None and problem.rotation is not None:
            term = (z[:, case.v_rank :] @ problem.tables.k_b[adapter].to(dtype)).view_as(k)
            cos = problem.rotation.cos[:tokens, None].to(dtype)
            sin = problem.rotation.sin[:tokens, None].to(dtype)
            low, high = term.chunk(2, -1)
            k = k + term * cos + torch.cat((-high, low), -1) * sin
        found.append((k, v))
    return found


def causal_attention(
    q: Tensor, k: Tensor, v: Tensor, scale: float, window: int | None = None
) -> Tensor:
    """Attention of a sequence's newest queries ``[n, Hq, D]`` over its ``[L, Hk, D]``."""
    new, tokens, group = len(q), len(k), q.shape[1] // k.shape[1]
    keys, values = (x.repeat_interleave(group, 1).transpose(0, 1) for x in (k, v))
    scores = q.transpose(0, 1) @ keys.transpose(1, 2) * scale
    seen = torch.ones(tokens, tokens, dtype=torch.bool, device=q.device).tril()
    if window is not None:
        seen &= ~seen.tril(-window)
    scores = scores.masked_fill(~seen[tokens - new :], float("-inf"))
    return (scores.softmax(-1) @ values).transpose(0, 1)


def dense(problem: Problem, dtype: torch.dtype) -> Tensor:
    """The paper's formula on dense tensors, ``softmax(q K^T) (V + z B)``, all in ``dtype``.

    Plain PyTorch: expanded keys and values, whole score matrix, whole masks. No pages, nothing from
    the package. In float64 it is the truth, in the problem's dtype the yardstick for an error.
    """
    case = problem.case
    queries = problem.q.to(dtype).split([new for new, _ in case.lens])
    parts = [
        causal_attention(q, k, v, problem.scale, case.window)
        for q, (k, v) in zip(queries, expanded(problem, dtype), strict=True)
    ]
    return torch.cat(parts) if parts else problem.q.to(dtype)


def assert_close(actual: Tensor, problem: Problem) -> None:
    """At most twice the error of PyTorch in the same dtype, plus a floor; see `assert_within`."""
    assert_within(actual, dense(problem, torch.float64), dense(problem, problem.case.dtype))


def assert_within(actual: Tensor, truth: Tensor, peer: Tensor) -> None:
    """At most twice the error of ``peer``, plus what rounding the largest value costs."""
    assert actual.shape == truth.shape
    if not truth.numel():
        return
    floor = torch.finfo(actual.dtype).eps / 2 * truth.abs().max()
    bound = 2 * (peer.double() - truth).abs().max() + floor
    error = (actual.double() - truth).abs().max()
    assert not actual.isnan().any(), "NaN from a row that must not be read"
    assert error <= bound, f"error {error:.3g}, allowed {bound:.3g}"
