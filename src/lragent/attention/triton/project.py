"""The LR projection ``z = x A`` for one or all slots of each token.

Two kernels. `rows_kernel` gives each token and a few columns to a program of their own, which is
fastest for a few tokens. `tiles_kernel` takes a tile of tokens at once: in a tile, tokens with the
same choice of A (usually all) share one matrix product over all their slots, so a group's slots
cost little more than one. The hidden dimension may be shared out; the shares are added in a fixed
order.
"""

# Triton rewrites these functions; its types are not the ones a Python type checker sees.
# pyright: reportOptionalMemberAccess=false, reportAttributeAccessIssue=false
# pyright: reportArgumentType=false, reportOperatorIssue=false, reportIndexIssue=false
# pyright: reportGeneralTypeIssues=false, reportCallIssue=false

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def rows_kernel(
    out_ptr,  # [T, S, W]
    x_ptr,
    a_ptr,
    index_ptr,
    stride_x,
    stride_an,
    stride_aw,
    stride_index,
    SLOTS: tl.constexpr,
    WIDTH: tl.constexpr,
    D: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Grid: (tokens, slots, column blocks)."""
    token = tl.program_id(0).to(tl.int64)
    slot = tl.program_id(1)
    offs_w = tl.program_id(2) * BLOCK_W + tl.arange(0, BLOCK_W)
    offs_d = tl.arange(0, BLOCK_D)
    chosen = tl.load(index_ptr + token * stride_index + slot).to(tl.int64)
    keep_w = offs_w < WIDTH
    total = tl.zeros([BLOCK_W, BLOCK_D], tl.float32)
    if chosen >= 0:
        a_rows = a_ptr + chosen * stride_an + offs_w[:, None] * stride_aw
        for first in tl.range(0, D, BLOCK_D):
            at = first + offs_d
            x = tl.load(x_ptr + token * stride_x + at, mask=at < D, other=0.0).to(tl.float32)
            a = tl.load(a_rows + at[None, :], mask=keep_w[:, None] & (at < D)[None, :], other=0.0)
            total += a.to(tl.float32) * x[None, :]
    out = tl.sum(total, 1)
    out_row = out_ptr + (token * SLOTS + slot) * WIDTH
    tl.store(out_row + offs_w, out.to(out_ptr.dtype.element_ty), mask=keep_w)


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
