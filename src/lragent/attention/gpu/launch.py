"""Launches of the attention kernels: plain tensors in, no allocation, no synchronisation."""

from __future__ import annotations

import functools
import math
import os
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from lragent.attention.gpu.kernels.attend import attend_kernel
from lragent.attention.gpu.kernels.combine import combine_kernel
from lragent.attention.gpu.kernels.decode import decode_kernel
from lragent.attention.gpu.layer import Layer, Sequences, present
from lragent.attention.gpu.relaunch import Grid, Launch, launch_of
from lragent.attention.gpu.tiles import (
    NARROW,
    TOKEN_ROWS,
    Tile,
    attention_tile,
    choose_splits,
    expand_chunk,
    multiprocessors,
    tokens_as_rows,
)
from lragent.attention.gpu.workspace import buffer

MOST_SPLITS = 64
"""Most shares of a context."""


@functools.cache
def has_pdl(device: torch.device) -> bool:
    """Whether a kernel may start before the last one has ended (Hopper and later)."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device)[0] >= 9


def interpreting() -> bool:
    """Whether kernels run in Triton's interpreter, which takes CPU tensors."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


class AttendCall(NamedTuple):
    """Attention over pages, the same in every layer: see `prepare_attend`.

    Attributes:
        attend: launches `attend_kernel` or `decode_kernel`.
        grid: its programs.
        batch: its tensors that follow from the batch.
        numbers: its other arguments.
        partial: room for the shares of each context; None where contexts are not shared out.
        lse: room for the logarithms of their sums.
        combine: launches `combine_kernel`.
        combine_grid: its programs.
        combine_numbers: its other arguments.
    """

    attend: Launch
    grid: Grid
    batch: tuple[Tensor, ...]
    numbers: tuple[Any, ...]
    partial: Tensor | None
    lse: Tensor | None
    combine: Launch | None
    combine_grid: Grid
    combine_numbers: tuple[Any, ...]

    def __call__(self, q: Tensor, out: Tensor, layer: Layer) -> None:
        """Launch the kernels for one layer, laid out like the one that was prepared for."""
        lr, v_b, k_b, cos, sin = present(layer)
        partial = out if self.partial is None else self.partial
        lse = out if self.lse is None else self.lse
        self.attend(
            self.grid,
            (q, out, partial, lse, layer.k, layer.v, lr, v_b, k_b, cos, sin, *self.batch),
            self.numbers,
        )
        if self.combine is not None:
            tensors = (out, partial, lse, self.batch[1])
            self.combine(self.combine_grid, tensors, self.combine_numbers)


def prepare_attend(
    q: Tensor,
    out: Tensor,
    cu_seqlens_q: Tensor,
    layer: Layer,
    sequences: Sequences,
    scale: float,
    window: int,
    max_seq: int,
    decode: bool,
    min_query: int,
    max_query: int,
    tile: Tile | None = None,
    splits: int | None = None,
) -> AttendCall | None:
    """Attention of the sequences that have ``min_query`` to ``max_query`` queries, to be launched.

    Other sequences' rows of ``out`` are left as they are. The grid follows from the shapes of ``q``
    and ``cu_seqlens_q``, from ``max_seq`` and from the tile, so one launch can be replayed with
    other lengths. None without anything to do.

    Args:
        q: ``[T, Hq, D]``, rows contiguous.
        out: ``[T, Hq, D]``, rows contiguous.
        cu_seqlens_q: ``[S+1]`` int32.
        layer: the layer, or one laid out alike.
        sequences: the batch.
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
    kv_heads, page = layer.k.shape[1], layer.k.shape[2]
    group, count = heads // kv_heads, cu_seqlens_q.shape[0] - 1
    if not rows or not count:
        return None
    v_rank, k_rank = layer.v_rank, layer.k_rank
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
        most = MOST_SPLITS if q.dtype.itemsize == 2 else 1
        splits = choose_splits(busy * kv_heads, seen, tile, sms, most=most)
    partial = lse = combine = None
    if splits > 1:
        lines = (count if decode else rows) * heads * splits
        partial = buffer("partial", lines * width, torch.float32, q.device)
        lse = buffer("lse", lines, torch.float32, q.device)
    lr, v_b, k_b, cos, _ = present(layer)
    align = math.gcd(16, *lr.stride()[:3])
    block_d = head_block(width, k_rank)
    strides = (
        *q.stride()[:2], *out.stride()[:2],
        *layer.k.stride()[:3], *layer.v.stride()[:3], *(step // align for step in lr.stride()[:3]),
        *v_b.stride()[:2], *k_b.stride()[:2], cos.stride(0),
    )  # fmt: skip
    dtypes = (q.dtype, out.dtype, lr.dtype, v_b.dtype, k_b.dtype, cos.dtype)
    common: dict[str, Any] = {
        "KV_HEADS": kv_heads, "GROUP": group, "D": width, "BLOCK_D": block_d,
        "BLOCK_N": tile.block_n, "PAGE": page,
        "V_RANK": v_rank, "BLOCK_VR": rank_block(v_rank),
        "K_RANK": k_rank, "BLOCK_KR": min(rank_block(k_rank), 64),
        "ALIGN_Z": align, "WINDOW": window > 0, "SPLIT": splits > 1, "num_stages": tile.stages,
    }  # fmt: skip
    if decode and tokens_as_rows(q.dtype, width, group, v_rank, k_rank):
        warps = min(tile.warps, tile.block_n // TOKEN_ROWS)
        attend = launch_of(
            decode_kernel, q.device, (strides, dtypes),
            **common, BLOCK_M=NARROW, W=warps, num_warps=warps,
        )  # fmt: skip
    else:
        attend = launch_of(
            attend_kernel, q.device, (strides, dtypes),
            **common, BLOCK_M=tile.block_m,
            CHUNK_VR=expand_chunk(max(v_rank, 1), width, q.dtype),
            EXACT=q.dtype.itemsize > 2, DECODE=decode, num_warps=tile.warps,
        )  # fmt: skip
    filtered = (count, splits, min_query, max_query)
    if splits > 1:
        pdl = {"launch_pdl": True} if has_pdl(q.device) else {}
        combine = launch_of(
            combine_kernel, q.device, (out.stride(), out.dtype),
            D=width, BLOCK_D=block_d, BLOCK_S=triton.next_power_of_2(splits),
            DECODE=decode, PDL=bool(pdl), num_warps=2, **pdl,
        )  # fmt: skip
    return AttendCall(
        attend,
        # Programs that share the context are a second axis: heads and tiles stay neighbours.
        (tiles * kv_heads, splits, 1),
        (
            sequences.block_tables, cu_seqlens_q, sequences.seq_lens, sequences.adapter_index,
            sequences.lr_slot,
        ),
        (
            *filtered, window, cos.shape[0], scale * math.log2(math.e),
            *strides, sequences.block_tables.stride(0),
        ),
        partial,
        lse,
        combine,
        (count if decode else rows, heads, 1),
        (*filtered, *out.stride()[:2]),
    )  # fmt: skip


def head_block(head_dim: int, k_rank: int) -> int:
    """Columns of a head in a product that sums over them: a matrix instruction takes 16 at least.

    With key LoRA both halves of a head are summed over by themselves.
    """
    return triton.next_power_of_2(max(head_dim, 32 if k_rank else 16))


def rank_block(rank: int) -> int:
    """Columns of z that a product takes at a time, unless something limits them."""
    return triton.next_power_of_2(max(rank, 16))
