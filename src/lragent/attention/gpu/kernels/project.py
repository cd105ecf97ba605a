"""The LR projection ``z = x A`` of a few tokens.

A program takes a few tokens and columns of one slot, and the whole hidden dimension, which is
fastest for few tokens: there is nothing to add up afterwards.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit(do_not_specialize=("tokens",))
def rows_kernel(
    out_ptr,  # [T, CHOICES, W]
    x_ptr,
    a_ptr,
    index_ptr,
    tokens,
    stride_x,
    stride_an,
    stride_aw,
    stride_index,
    CHOICES: tl.constexpr,
    WIDTH: tl.constexpr,
    D: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_D: tl.constexpr,
    SHARES: tl.constexpr,  # of the hidden dimension, side by side, for the matrix unit; 0 without
):
    """Grid: (blocks of tokens, slots, column blocks)."""
    offs_t = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    slot = tl.program_id(1)
    offs_w = tl.program_id(2) * BLOCK_W + tl.arange(0, BLOCK_W)
    row_t = offs_t.to(tl.int64)
    keep_t = offs_t < tokens
    keep_w = offs_w < WIDTH
    choices = tl.load(index_ptr + row_t * stride_index + slot, mask=keep_t, other=-1).to(tl.int64)
    out = tl.zeros([BLOCK_T, BLOCK_W], tl.float32)
    # Tokens with the same choice of A together; usually all.
    chosen = tl.max(choices, 0)
    while chosen >= 0:
        same = choices == chosen
        a_rows = a_ptr + chosen * stride_an + offs_w * stride_aw
        x_rows = x_ptr + row_t * stride_x
        if SHARES == 0:
            total = tl.zeros([BLOCK_T, BLOCK_W, BLOCK_D], tl.float32)
            # Unrolled, so that many loads are on their way at a time. They are loaded with the axes
            # of the product: from fewer, they would pass through shared memory to get there.
            for first in tl.static_range(0, D, BLOCK_D):
                at = first + tl.arange(0, BLOCK_D)[None, None, :]
                keep_x = same[:, None, None] & (at < D)
                x = tl.load(x_rows[:, None, None] + at, mask=keep_x, other=0.0)
                keep_a = keep_w[None, :, None] & (at < D)
                a = tl.load(a_rows[None, :, None] + at, mask=keep_a, other=0.0)
                total += a.to(tl.float32) * x.to(tl.float32)
            out += tl.sum(total, 2)
        else:
            share: tl.constexpr = (D + SHARES - 1) // SHARES
            begin = tl.arange(0, SHARES)[:, None] * share
            parts = tl.zeros([SHARES, BLOCK_T, BLOCK_W], tl.float32)
            for first in tl.range(0, share, BLOCK_D):
                offs_d = first + tl.arange(0, BLOCK_D)[None, :]
                at = begin + offs_d
                keep_d = (offs_d < share) & (at < D)
                x_ptrs = x_rows[None, :, None] + at[:, None, :]
                x = tl.load(x_ptrs, same[None, :, None] & keep_d[:, None, :], 0.0)
                a_ptrs = a_rows[None, None, :] + at[:, :, None]
                a = tl.load(a_ptrs, keep_w[None, None, :] & keep_d[:, :, None], 0.0)
                parts = tl.dot(x, a.to(x.dtype), parts)
            out += tl.sum(parts, 0)
        chosen = tl.max(tl.where(choices < chosen, choices, -1), 0)
    out_rows = out_ptr + (row_t * CHOICES + choices) * WIDTH
    tl.store(
        out_rows[:, None] + offs_w[None, :],
        out.to(out_ptr.dtype.element_ty),
        mask=(choices >= 0)[:, None] & keep_w[None, :],
    )
