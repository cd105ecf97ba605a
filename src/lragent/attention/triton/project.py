"""The LR projection ``z = x A`` for one or all slots of each token.

Two kernels. `rows_kernel` gives a few tokens and columns of one slot to a program of their own, and
the whole hidden dimension, which is fastest for few tokens: there is nothing to add up afterwards.
`tiles_kernel` takes a tile of tokens at once: in a tile, tokens with the same choice of A (usually
all) share one matrix product over all their slots, so a group's slots cost little more than one.
The hidden dimension may be shared out among programs; the shares are added in a fixed order.
"""

# Triton rewrites these functions; its types are not the ones a Python type checker sees.
# pyright: reportOptionalMemberAccess=false, reportAttributeAccessIssue=false
# pyright: reportArgumentType=false, reportOperatorIssue=false, reportIndexIssue=false
# pyright: reportGeneralTypeIssues=false, reportCallIssue=false

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit(do_not_specialize=("tokens",))
def rows_kernel(
    out_ptr,  # [T, S, W]
    x_ptr,
    a_ptr,
    index_ptr,
    tokens,
    stride_x,
    stride_an,
    stride_aw,
    stride_index,
    SLOTS: tl.constexpr,
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
    out_rows = out_ptr + (row_t * SLOTS + slot) * WIDTH
    tl.store(
        out_rows[:, None] + offs_w[None, :],
        out.to(out_ptr.dtype.element_ty),
        mask=keep_t[:, None] & keep_w[None, :],
    )


@triton.jit(do_not_specialize=("tokens", "splits"))
def tiles_kernel(
    out_ptr,  # [K splits, T, S, W] fp32 with several splits, else [T, S, W]
    x_ptr,
    a_ptr,
    index_ptr,
    tokens,
    splits,
    stride_x,
    stride_an,
    stride_aw,
    stride_index,
    SLOTS: tl.constexpr,
    WIDTH: tl.constexpr,
    D: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_D: tl.constexpr,
    EVEN: tl.constexpr,  # every share is whole blocks: loads need no mask along the dimension
):
    """Grid: (token tiles, blocks of slot-and-column, shares of the hidden dimension)."""
    offs_t = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    offs_c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    columns: tl.constexpr = SLOTS * WIDTH
    slot = offs_c // WIDTH
    keep_c = offs_c < columns
    row_t = offs_t.to(tl.int64)
    offs_s = tl.arange(0, BLOCK_S)
    keep_s = offs_s < SLOTS
    choices = tl.load(
        index_ptr + row_t[:, None] * stride_index + offs_s[None, :],
        mask=(offs_t < tokens)[:, None] & keep_s[None, :],
        other=-1,
    )
    share = tl.cdiv(tl.cdiv(D, BLOCK_D), splits) * BLOCK_D
    begin = tl.program_id(2) * share
    end = tl.minimum(D, begin + share)
    out_rows = out_ptr + (tl.program_id(2).to(tl.int64) * tokens + row_t) * columns
    left = tl.where(offs_t < tokens, 1, 0)
    while tl.max(left, 0) > 0:
        leader = tl.min(tl.where(left > 0, offs_t, 2147483647), 0)
        row = index_ptr + leader.to(tl.int64) * stride_index
        wanted = tl.load(row + offs_s, mask=keep_s, other=-1)
        same = (tl.min(tl.where(choices == wanted[None, :], 1, 0), 1) > 0) & (left > 0)
        chosen = tl.load(row + slot, mask=keep_c, other=-1).to(tl.int64)
        keep_a = chosen >= 0
        a_columns = a_ptr + chosen * stride_an + (offs_c % WIDTH) * stride_aw
        acc = tl.zeros([BLOCK_T, BLOCK_C], tl.float32)
        for first in tl.range(begin, end, BLOCK_D):
            at = first + tl.arange(0, BLOCK_D)
            keep_x = same[:, None]
            keep_b = keep_a[None, :]
            if not EVEN:
                keep_x = keep_x & (at < D)[None, :]
                keep_b = keep_b & (at < D)[:, None]
            x_ptrs = x_ptr + row_t[:, None] * stride_x + at[None, :]
            x = tl.load(x_ptrs, mask=keep_x, other=0.0)
            a = tl.load(a_columns[None, :] + at[:, None], mask=keep_b, other=0.0)
            acc = tl.dot(x, a.to(x.dtype), acc, input_precision="ieee")
        tl.store(
            out_rows[:, None] + offs_c[None, :],
            acc.to(out_ptr.dtype.element_ty),
            mask=same[:, None] & keep_c[None, :],
        )
        left = tl.where(same, 0, left)


@triton.jit(do_not_specialize=("count",))
def add_kernel(
    out_ptr, parts_ptr, count, SPLITS: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr
):
    """Add the shares of `tiles_kernel` in order; grid: blocks of the output."""
    if PDL:
        tl.extra.cuda.gdc_wait()
    offs = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK], tl.float32)
    for split in tl.static_range(SPLITS):
        total += tl.load(parts_ptr + split * count + offs, mask=offs < count, other=0.0)
    tl.store(out_ptr + offs, total.to(out_ptr.dtype.element_ty), mask=offs < count)
