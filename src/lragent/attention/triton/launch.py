"""Launches of the attention kernels: plain tensors in, no allocation, no synchronisation."""

# kernel[grid](...) is Triton's way to launch; a type checker sees a plain function.
# pyright: reportIndexIssue=false, reportCallIssue=false

from __future__ import annotations

import functools
import math
import os
from dataclasses import dataclass

import torch
import triton
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from lragent.attention.triton.attend import attend_kernel
from lragent.attention.triton.combine import combine_kernel
from lragent.attention.triton.dense import dense_kernel
from lragent.attention.triton.expand import expand_kernel
from lragent.attention.triton.project import add_kernel, rows_kernel, tiles_kernel
from lragent.attention.triton.tiles import (
    ProjectTile,
    Tile,
    attention_tile,
    choose_splits,
    expand_chunk,
    multiprocessors,
    project_tile,
)
from lragent.attention.triton.workspace import buffer


@dataclass(frozen=True)
class Cache:
    """Everything of one layer that attention reads besides the queries.

    Attributes:
        k: ``[P, Hk, N, D]`` keys.
        v: ``[P, Hk, N, D]`` base values.
        lr: ``[P, N, M, W]`` LR rows, or None.
        v_b: ``[A, Rv, Hk*D]``, or None.
        k_b: ``[A, Rk, Hk*D]``, or None.
        cos: ``[positions, D]`` fp32, or None.
        sin: ``[positions, D]`` fp32, or None.
        block_tables: ``[S, max_pages]`` int32.
        seq_lens: ``[S]`` int32.
        adapter_index: ``[S]`` int32.
        lr_slot: ``[S]`` int32.
    """

    k: Tensor
    v: Tensor
    lr: Tensor | None
    v_b: Tensor | None
    k_b: Tensor | None
    cos: Tensor | None
    sin: Tensor | None
    block_tables: Tensor
    seq_lens: Tensor
    adapter_index: Tensor
    lr_slot: Tensor

    @property
    def v_rank(self) -> int:
        """Rank that values are read with, 0 without LR rows."""
        return 0 if self.v_b is None or self.lr is None else self.v_b.shape[1]

    @property
    def k_rank(self) -> int:
        """Rank that keys are completed with, 0 without LR rows."""
        return 0 if self.k_b is None or self.lr is None else self.k_b.shape[1]


@functools.cache
def _has_pdl(device: torch.device) -> bool:
    """Whether a kernel may start before the last one has ended (Hopper and later)."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device)[0] >= 9


def interpreting() -> bool:
    """Whether kernels run in Triton's interpreter, which takes CPU tensors."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


def launch_attend(
    q: Tensor,
    out: Tensor,
    cu_seqlens_q: Tensor,
    cache: Cache,
    scale: float,
    window: int,
    max_seq: int,
    decode: bool,
    min_query: int,
    max_query: int,
    tile: Tile | None = None,
    splits: int | None = None,
) -> None:
    """Attention of the sequences that have ``min_query`` to ``max_query`` queries.

    Other sequences' rows of ``out`` are left as they are. The grid follows from the shapes of ``q``
    and ``cu_seqlens_q``, from ``max_seq`` and from the tile, so one launch can be replayed with
    other lengths.

    Args:
        q: ``[T, Hq, D]``, rows contiguous.
        out: ``[T, Hq, D]``, rows contiguous.
        cu_seqlens_q: ``[S+1]`` int32.
        cache: the layer.
        scale: softmax scale.
        window: tokens that a query sees, 0 for all.
        max_seq: longest context, for the choice of splits only.
        decode: every sequence has at most one query; one tile each.
        min_query: sequences with fewer queries are skipped.
        max_query: sequences with more queries are skipped.
        tile: instead of the table's.
        splits: shares of each context, instead of the rule's.
    """
    rows, heads, width = q.shape
    kv_heads, page = cache.k.shape[1], cache.k.shape[2]
    group, count = heads // kv_heads, cu_seqlens_q.shape[0] - 1
    if not rows or not count:
        return
    v_rank, k_rank = cache.v_rank, cache.k_rank
    sms = multiprocessors(q.device)
    if tile is None:
        # Small tiles for queries that would not give every multiprocessor a large one.
        few = rows * heads < 128 * sms or rows * group < 64 * count
        kind = "decode" if decode else "few" if few else "many"
        tile = attention_tile(kind, q.device, q.dtype, width, group, v_rank, k_rank)
    tiles = count if decode else rows // (tile.block_m // group) + count
    if splits is None:
        seen = min(max_seq, window + tile.block_n) if window else max_seq
        busy = count if decode else max(1, rows // (tile.block_m // group))
        # In fp32 the fast exponentials that weigh the shares would be the largest error.
        most = 64 if q.dtype.itemsize == 2 else 1
        splits = choose_splits(busy * kv_heads, seen, tile, sms, most=most)
    partial, lse = out, out
    if splits > 1:
        lines = (count if decode else rows) * heads * splits
        partial = buffer("partial", lines * width, torch.float32, q.device)
        lse = buffer("lse", lines, torch.float32, q.device)
    lr, v_b, k_b, cos, sin = _present(cache)
    align = math.gcd(16, *lr.stride()[:3])
    block_d = triton.next_power_of_2(width)
    # Programs that share the context are a second axis: heads and tiles stay neighbours.
    attend_kernel[(tiles * kv_heads, splits)](
        q, out, partial, lse, cache.k, cache.v, lr, v_b, k_b, cos, sin,
        cache.block_tables, cu_seqlens_q, cache.seq_lens, cache.adapter_index, cache.lr_slot,
        count, splits, min_query, max_query, window, cos.shape[0], scale * math.log2(math.e),
        *q.stride()[:2], *out.stride()[:2],
        *cache.k.stride()[:3], *cache.v.stride()[:3], *(step // align for step in lr.stride()[:3]),
        *v_b.stride()[:2], *k_b.stride()[:2], cos.stride(0), cache.block_tables.stride(0),
        KV_HEADS=kv_heads, GROUP=group, D=width, BLOCK_M=tile.block_m, BLOCK_D=block_d,
        BLOCK_N=tile.block_n, PAGE=page,
        V_RANK=v_rank, BLOCK_VR=_rank_block(v_rank),
        CHUNK_VR=expand_chunk(max(v_rank, 1), width, q.dtype),
        K_RANK=k_rank, BLOCK_KR=min(_rank_block(k_rank), 64),
        ALIGN_Z=align, WINDOW=window > 0, EXACT=q.dtype.itemsize > 2, DECODE=decode,
        SPLIT=splits > 1,
        num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip
    if splits > 1:
        pdl = {"launch_pdl": True} if _has_pdl(q.device) else {}
        combine_kernel[(count if decode else rows, heads)](
            out, partial, lse, cu_seqlens_q, count, splits, min_query, max_query,
            *out.stride()[:2],
            D=width, BLOCK_D=block_d, BLOCK_S=triton.next_power_of_2(splits),
            DECODE=decode, PDL=bool(pdl), num_warps=2, **pdl,
        )  # fmt: skip


def launch_expand(k_out: Tensor, v_out: Tensor, cu_seqlens_k: Tensor, cache: Cache) -> None:
    """Write the full K and V of each context, one sequence after the other.

    Args:
        k_out: ``[tokens, Hk, D]`` contiguous, at least ``cu_seqlens_k[-1]`` tokens.
        v_out: the same.
        cu_seqlens_k: ``[S+1]`` int32, sums of the context lengths.
        cache: the layer.
    """
    tokens, kv_heads, width = k_out.shape
    count = cu_seqlens_k.shape[0] - 1
    lr, v_b, k_b, cos, sin = _present(cache)
    align = math.gcd(16, *lr.stride()[:3])
    v_rank, k_rank = cache.v_rank, cache.k_rank
    block_n = 64 if k_out.dtype.itemsize * width <= 256 else 32
    expand_kernel[((tokens // block_n + count) * kv_heads,)](
        k_out, v_out, cache.k, cache.v, lr, v_b, k_b, cos, sin,
        cache.block_tables, cu_seqlens_k, cache.adapter_index, cache.lr_slot, count,
        *cache.k.stride()[:3], *cache.v.stride()[:3], *(step // align for step in lr.stride()[:3]),
        *v_b.stride()[:2], *k_b.stride()[:2], cos.stride(0), cache.block_tables.stride(0),
        KV_HEADS=kv_heads, D=width, BLOCK_D=triton.next_power_of_2(width), BLOCK_N=block_n,
        PAGE=cache.k.shape[2],
        V_RANK=v_rank,
        BLOCK_VR=min(_rank_block(v_rank), 64 if k_out.dtype.itemsize == 2 else 16),
        K_RANK=k_rank, BLOCK_KR=min(_rank_block(k_rank), 64), ALIGN_Z=align,
        num_warps=4,
    )  # fmt: skip


def launch_dense(
    q: Tensor,
    out: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    scale: float,
    window: int,
    tile: Tile | None = None,
) -> None:
    """Causal attention over expanded keys; rows outside ``cu_seqlens_q`` are left as they are.

    Args:
        q: ``[T, Hq, D]``, rows contiguous.
        out: ``[T, Hq, D]``, rows contiguous.
        k: ``[tokens, Hk, D]`` contiguous, exactly the tokens of ``cu_seqlens_k``.
        v: the same.
        cu_seqlens_q: ``[S+1]`` int32.
        cu_seqlens_k: ``[S+1]`` int32.
        scale: softmax scale.
        window: tokens that a query sees, 0 for all.
        tile: instead of the table's.
    """
    rows, heads, width = q.shape
    tokens, kv_heads, _ = k.shape
    group, count = heads // kv_heads, cu_seqlens_q.shape[0] - 1
    block_d = triton.next_power_of_2(width)
    if tile is None:
        # With at most one program a multiprocessor, each must hide its own latency.
        alone = rows * group * kv_heads <= 64 * multiprocessors(q.device)
        kind = "dense-few" if alone else "dense"
        tile = attention_tile(kind, q.device, q.dtype, width, group, 0, 0)
    shape, strides = [tokens, kv_heads * width], [kv_heads * width, 1]
    k_desc, v_desc = (TensorDescriptor(x, shape, strides, [tile.block_n, block_d]) for x in (k, v))
    tiles = rows // (tile.block_m // group) + count
    dense_kernel[(tiles * kv_heads,)](
        q, out, k_desc, v_desc, cu_seqlens_q, cu_seqlens_k, count, window,
        scale * math.log2(math.e), *q.stride()[:2], *out.stride()[:2],
        KV_HEADS=kv_heads, GROUP=group, D=width, BLOCK_M=tile.block_m, BLOCK_D=block_d,
        BLOCK_N=tile.block_n, WINDOW=window > 0, num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip


def launch_project(
    x: Tensor, a: Tensor, index: Tensor, out: Tensor, tile: ProjectTile | None = None
) -> None:
    """``out[t, s] = a[index[t, s]] x[t]``, zeros for -1; see `lragent.attention.project_lr`."""
    tokens, width = x.shape
    slots, columns = index.shape[1], a.shape[1]
    if not tokens or not slots:
        return
    sms = multiprocessors(x.device)
    tile = tile or project_tile(tokens, slots, columns, width, x.dtype, sms)
    if not tile.block_t:
        rows_kernel[(tokens, slots, triton.cdiv(columns, tile.block_c))](
            out, x, a, index, x.stride(0), *a.stride()[:2], index.stride(0),
            SLOTS=slots, WIDTH=columns, D=width, BLOCK_W=tile.block_c, BLOCK_D=tile.block_d,
            num_warps=tile.warps,
        )  # fmt: skip
        return
    count, splits = tokens * slots * columns, tile.splits
    parts = out if splits == 1 else buffer("project", splits * count, torch.float32, x.device)
    blocks_t, blocks_c = (
        triton.cdiv(tokens, tile.block_t),
        triton.cdiv(slots * columns, tile.block_c),
    )
    tiles_kernel[(blocks_t, blocks_c, splits)](
        parts, x, a, index, tokens, splits, x.stride(0), *a.stride()[:2], index.stride(0),
        SLOTS=slots, WIDTH=columns, D=width, BLOCK_T=tile.block_t, BLOCK_C=tile.block_c,
        BLOCK_S=triton.next_power_of_2(slots), BLOCK_D=tile.block_d,
        EVEN=width % tile.block_d == 0, num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip
    if splits > 1:
        pdl = {"launch_pdl": True} if _has_pdl(x.device) else {}
        add_kernel[(triton.cdiv(count, 512),)](
            out, parts, count, SPLITS=splits, BLOCK=512, PDL=bool(pdl), num_warps=4, **pdl
        )


def _present(cache: Cache) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The optional tensors; K stands in for a missing one, which the kernel then never reads."""
    lora = cache.lr is not None
    lr = cache.lr if cache.lr is not None else cache.k
    v_b = cache.v_b if lora and cache.v_b is not None else cache.k
    k_b = cache.k_b if lora and cache.k_b is not None else cache.k
    cos = cache.cos if cache.k_rank and cache.cos is not None else cache.k
    sin = cache.sin if cache.k_rank and cache.sin is not None else cache.k
    return lr, v_b, k_b, cos, sin


def _rank_block(rank: int) -> int:
    return triton.next_power_of_2(max(rank, 16))
