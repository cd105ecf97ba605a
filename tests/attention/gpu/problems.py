"""Random attention problems with poisoned unused memory, their answers and the tolerance."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lragent.attention import AttentionBatch, KeyRotation, LoraTables, PageViews
from lragent.attention.base import page_views
from lragent.attention.gpu import TritonBackend
from lragent.attention.naive import rotate
from lragent.cache.layout import PageLayout

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
HALF = torch.bfloat16 if torch.cuda.is_available() else torch.float16


@dataclass(frozen=True)
class Problem:
    """What an attention call takes."""

    q: Tensor
    pages: PageViews
    batch: AttentionBatch
    tables: LoraTables
    scale: float
    window: int | None
    rotation: KeyRotation | None


def rotation_tables(positions: int, head_dim: int, factor: float = 1.0) -> KeyRotation:
    """Default RoPE, or linearly scaled with ``factor`` > 1."""
    inverse = 10000.0 ** (-torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
    angles = torch.arange(positions, dtype=torch.float64)[:, None] / factor * inverse[None, :]
    angles = torch.cat((angles, angles), dim=1)
    return KeyRotation(angles.cos().float().to(DEVICE), angles.sin().float().to(DEVICE))


def make(
    query_lens: list[int],
    seq_lens: list[int],
    *,
    heads: tuple[int, int] = (4, 2),
    head_dim: int = 64,
    page_size: int = 16,
    v_rank: int = 8,
    k_rank: int = 0,
    slots: int = 2,
    adapters: list[int] | None = None,
    dtype: torch.dtype = torch.float32,
    window: int | None = None,
    one_page: bool = True,
    factor: float = 1.0,
    seed: int = 0,
) -> Problem:
    """A problem whose every unused row, slot and table entry is NaN."""
    generator = torch.Generator().manual_seed(seed)
    count = len(seq_lens)
    width = v_rank + k_rank
    needed = [-(-tokens // page_size) for tokens in seq_lens]
    total = sum(needed) + 3
    order = torch.randperm(total, generator=generator).tolist()
    block_tables, used = [], 0
    for pages in needed:
        block_tables.append(order[used : used + pages])
        used += pages
    layout = PageLayout(page_size, heads[1], head_dim, slots, v_rank, k_rank, dtype.itemsize)
    raw = torch.full((total, layout.page_elements), math.nan, dtype=dtype)
    if one_page:
        views = page_views(raw, layout)
    else:
        shape = (total, heads[1], page_size, head_dim)
        lr = torch.full((total, page_size, slots, width), math.nan, dtype=dtype) if width else None
        views = PageViews(
            torch.full(shape, math.nan, dtype=dtype), torch.full(shape, math.nan, dtype=dtype), lr
        )
    adapters = [s % 3 - 1 for s in range(count)] if adapters is None else adapters
    lr_slot = [(s % slots if a >= 0 else -1) for s, a in enumerate(adapters)]
    for s, tokens in enumerate(seq_lens):
        for t in range(tokens):
            page, row = block_tables[s][t // page_size], t % page_size
            views.k[page, :, row] = torch.randn(heads[1], head_dim, generator=generator).to(dtype)
            views.v[page, :, row] = torch.randn(heads[1], head_dim, generator=generator).to(dtype)
            if views.lr is not None and lr_slot[s] >= 0:
                views.lr[page, row, lr_slot[s]] = torch.randn(width, generator=generator).to(dtype)
    if DEVICE.type == "cuda":
        if one_page:
            views = page_views(raw.to(DEVICE), layout)
        else:
            moved = None if views.lr is None else views.lr.to(DEVICE)
            views = PageViews(views.k.to(DEVICE), views.v.to(DEVICE), moved)
    rows = max(adapters, default=-1) + 1

    def table(rank: int) -> Tensor | None:
        if not rank:
            return None
        shape = (max(rows, 1), rank, heads[1] * head_dim)
        return (torch.randn(shape, generator=generator) * rank**-0.5).to(dtype).to(DEVICE)

    tokens = sum(query_lens)
    return Problem(
        q=torch.randn(tokens, heads[0], head_dim, generator=generator).to(dtype).to(DEVICE),
        pages=views,
        batch=AttentionBatch.build(
            block_tables, query_lens, seq_lens, adapters, lr_slot, device=DEVICE
        ),
        tables=LoraTables(table(v_rank), table(k_rank)),
        scale=head_dim**-0.5,
        window=window,
        rotation=rotation_tables(max(seq_lens, default=1) or 1, head_dim, factor)
        if k_rank
        else None,
    )


def attend(problem: Problem, out: Tensor | None = None) -> Tensor:
    """The problem's answer by the kernels."""
    return TritonBackend().attend(
        problem.q,
        problem.pages,
        problem.batch,
        problem.tables,
        scale=problem.scale,
        sliding_window=problem.window,
        rotation=problem.rotation,
        out=out,
    )


def dense_answer(problem: Problem, dtype: torch.dtype) -> Tensor:
    """The answer by plain PyTorch in ``dtype``: full K and V, masked softmax.

    In float64 this is the truth, in the problem's dtype the yardstick for a kernel's error.
    """
    q, pages, batch = problem.q, problem.pages, problem.batch
    heads, kv_heads, width = q.shape[1], pages.kv_heads, pages.head_dim
    out = torch.zeros_like(q, dtype=dtype)
    for s in range(batch.num_sequences):
        first, last = batch.host_cu_seqlens_q[s : s + 2]
        tokens = batch.host_seq_lens[s]
        if first == last:
            continue
        where = torch.arange(tokens)
        page = torch.tensor(batch.host_block_tables[s])[where // pages.page_size].to(q.device)
        row = (where % pages.page_size).to(q.device)
        k = pages.k[page, :, row].to(dtype)
        v = pages.v[page, :, row].to(dtype)
        if batch.uses_lora(s) and pages.lr is not None:
            adapter = batch.host_adapter_index[s]
            z = pages.lr[page, row, batch.host_lr_slot[s]].to(dtype)
            v_rank = problem.tables.v_rank
            if problem.tables.v_b is not None:
                term = z[:, :v_rank] @ problem.tables.v_b[adapter].to(dtype)
                v = v + term.view(tokens, kv_heads, width)
            if problem.tables.k_b is not None and problem.rotation is not None:
                term = z[:, v_rank : v_rank + problem.tables.k_rank]
                term = (term @ problem.tables.k_b[adapter].to(dtype)).view(tokens, kv_heads, width)
                cos = problem.rotation.cos[:tokens, None].to(dtype)
                k = k + rotate(term, cos, problem.rotation.sin[:tokens, None].to(dtype))
        k = k.repeat_interleave(heads // kv_heads, 1)
        v = v.repeat_interleave(heads // kv_heads, 1)
        scores = torch.einsum("qhd,khd->hqk", q[first:last].to(dtype), k) * problem.scale
        position = torch.arange(tokens - (last - first), tokens, device=q.device)[:, None]
        key = torch.arange(tokens, device=q.device)[None, :]
        seen = key <= position
        if problem.window is not None:
            seen &= key > position - problem.window
        scores = scores.masked_fill(~seen, -math.inf)
        out[first:last] = torch.einsum("hqk,khd->qhd", scores.softmax(-1), v)
    return out


def assert_close(actual: Tensor, problem: Problem) -> None:
    """At most twice the error of PyTorch in the same dtype, plus a floor; see `assert_within`."""
    truth = dense_answer(problem, torch.float64)
    assert_within(actual, truth, dense_answer(problem, problem.q.dtype))


def assert_within(actual: Tensor, truth: Tensor, peer: Tensor) -> None:
    """At most twice the error of ``peer``, plus what an addition rounds off such values."""
    assert actual.shape == truth.shape
    if not truth.numel():
        return
    rounded = truth.to(actual.dtype)
    floor = 2 * (rounded + 0.3 - 0.3 - rounded).abs().max().double()
    bound = 2 * (peer.double() - truth).abs().max() + floor
    error = (actual.double() - truth).abs().max()
    assert not actual.isnan().any(), "NaN from a row that must not be read"
    assert error <= bound, f"error {error:.3g}, allowed {bound:.3g}"


def without_adapters(problem: Problem) -> Problem:
    """The same pages and queries for sequences without adapters."""
    batch = problem.batch
    none = [-1] * batch.num_sequences
    index = torch.full_like(batch.adapter_index, -1)
    return replace(
        problem,
        batch=replace(
            batch,
            adapter_index=index,
            lr_slot=index,
            host_adapter_index=none,
            host_lr_slot=none,
        ),
    )
