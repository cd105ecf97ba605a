"""What the kernels share: names of arguments that are not compiled in, and device functions that
find a sequence and read rows through a block table.

Addresses are computed in 64 bits. A row that must not be used is never read: its lanes are masked
and hold zeros, so NaN in unused rows cannot spread.
"""

from __future__ import annotations

import triton
import triton.language as tl

FILTER = ("num_sequences", "splits", "min_query", "max_query")
"""Arguments that say which sequences a launch serves, and by how many shares; never compiled in."""

BATCH_SIZES = (*FILTER, "window", "num_positions", "stride_table")
"""Arguments of the attention kernels that change from batch to batch; never compiled in."""

PARTS = ("starts_ptr", "lens_ptr", "adapter_ptr", "slot_ptr")
"""Tensors of a batch, of which a launch gets a part that may begin anywhere."""


@triton.jit
def find_tile(starts_ptr, tile, count, BLOCK: tl.constexpr):
    """Sequence that owns ``tile`` when sequence s owns tiles from ``starts[s] // BLOCK + s`` on.

    Every sequence gets at least as many tiles as it needs, so the grid follows from the packed
    length and the number of sequences alone. With BLOCK = 1 and no ``+ s`` see `find_row`.
    """
    low = 0
    high = count
    while low < high:
        middle = (low + high) // 2
        if tl.load(starts_ptr + middle) // BLOCK + middle <= tile:
            low = middle + 1
        else:
            high = middle
    return low - 1


@triton.jit
def find_row(starts_ptr, row, count):
    """Sequence whose rows ``[starts[s], starts[s+1])`` hold ``row``."""
    low = 0
    high = count
    while low < high:
        middle = (low + high) // 2
        if tl.load(starts_ptr + middle) <= row:
            low = middle + 1
        else:
            high = middle
    return low - 1


@triton.jit
def load_block(ptrs, keep, columns, WIDTH: tl.constexpr, BLOCK: tl.constexpr, MASKED: tl.constexpr):
    """``[rows, BLOCK]`` from pointers, zeros where a row is not kept or a column is padding."""
    if MASKED:
        if WIDTH == BLOCK:
            return tl.load(ptrs, mask=keep[:, None], other=0.0)
        return tl.load(ptrs, mask=keep[:, None] & (columns < WIDTH)[None, :], other=0.0)
    if WIDTH == BLOCK:
        return tl.load(ptrs)
    return tl.load(ptrs, mask=(columns < WIDTH)[None, :], other=0.0)


@triton.jit
def locate(table_ptr, offs_n, keep, PAGE: tl.constexpr, MASKED: tl.constexpr):
    """Page id (64 bits) and row within the page of each token of a tile."""
    if MASKED:
        pages = tl.load(table_ptr + offs_n // PAGE, mask=keep, other=0)
    else:
        pages = tl.load(table_ptr + offs_n // PAGE)
    return pages.to(tl.int64), offs_n % PAGE


@triton.jit
def low_rank_key(
    z_ptrs,  # [n] pointers to the first key column of each token's LR row
    keep_z,  # [n] tokens whose LR row may be read
    b_ptr,  # B_k of this adapter and head
    stride_b,
    D: tl.constexpr,
    BLOCK_H: tl.constexpr,
    RANK: tl.constexpr,
    BLOCK_R: tl.constexpr,
    DTYPE: tl.constexpr,
):
    """``z B`` of a tile of tokens before rotation, as the two halves ``[n, BLOCK_H]``, fp32."""
    low = tl.zeros([z_ptrs.shape[0], BLOCK_H], tl.float32)
    high = tl.zeros([z_ptrs.shape[0], BLOCK_H], tl.float32)
    if RANK <= BLOCK_R:
        low, high = _add_ranks(
            low, high, 0, z_ptrs, keep_z, b_ptr, stride_b, D, BLOCK_H, RANK, BLOCK_R, DTYPE
        )
    else:
        # A loop that is not unrolled: otherwise all of B would be kept in shared memory.
        for first in tl.range(0, RANK, BLOCK_R, num_stages=1):
            low, high = _add_ranks(
                low, high, first, z_ptrs, keep_z, b_ptr, stride_b, D, BLOCK_H, RANK, BLOCK_R, DTYPE
            )
    return low, high


@triton.jit
def _add_ranks(
    low, high, first, z_ptrs, keep_z, b_ptr, stride_b,
    D: tl.constexpr, BLOCK_H: tl.constexpr, RANK: tl.constexpr, BLOCK_R: tl.constexpr,
    DTYPE: tl.constexpr,
):  # fmt: skip
    """Add the product of the columns ``[first, first + BLOCK_R)`` of z and rows of B."""
    half: tl.constexpr = D // 2
    offs_h = tl.arange(0, BLOCK_H)
    offs_r = first + tl.arange(0, BLOCK_R)
    keep_r = offs_r < RANK
    z = tl.load(
        z_ptrs[:, None] + offs_r[None, :], mask=keep_z[:, None] & keep_r[None, :], other=0.0
    )
    b_ptrs = b_ptr + offs_r[:, None] * stride_b + offs_h[None, :]
    b_keep = keep_r[:, None] & (offs_h < half)[None, :]
    b_low = tl.load(b_ptrs, mask=b_keep, other=0.0).to(DTYPE)
    b_high = tl.load(b_ptrs + half, mask=b_keep, other=0.0).to(DTYPE)
    low = tl.dot(z, b_low, low, input_precision="ieee")
    high = tl.dot(z, b_high, high, input_precision="ieee")
    return low, high
