"""Causal attention over contiguous K and V, for prefill where FlashAttention 3 is not installed.

It reads K and V through tensor descriptors (on Hopper the bulk copy engine), which needs contiguous
rows: `expand_kernel` has written them, adapter terms included.
"""

from __future__ import annotations

import triton
import triton.language as tl

from lragent.attention.gpu.kernels.common import find_tile, load_block


@triton.jit
def _step(
    acc, top, total, q, k_desc, v_desc, row, column, start, positions, end, scale, window,
    BLOCK_N: tl.constexpr, WINDOW: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """One step of online softmax over tokens ``[start, start + BLOCK_N)`` of the sequence."""
    k = k_desc.load([row + start, column])
    scores = tl.dot(q, k.T)
    if MASKED:
        offs_n = start + tl.arange(0, BLOCK_N)
        seen = (offs_n < end)[None, :] & (offs_n[None, :] <= positions[:, None])
        if WINDOW:
            seen = seen & (offs_n[None, :] > positions[:, None] - window)
        scores = tl.where(seen, scores, float("-inf"))
    new_top = tl.maximum(top, tl.max(scores, 1) * scale)
    base = new_top
    if MASKED:
        base = tl.where(new_top == float("-inf"), 0.0, new_top)
    p = tl.exp2(scores * scale - base[:, None])
    shrink = tl.exp2(top - base)
    total = total * shrink + tl.sum(p, 1)
    v = v_desc.load([row + start, column])
    acc = tl.dot(p.to(q.dtype), v, acc * shrink[:, None])
    return acc, new_top, total


@triton.jit(do_not_specialize=("num_sequences", "window"))
def dense_kernel(
    q_ptr,
    out_ptr,
    k_desc,  # [tokens, Hk*D] in blocks [BLOCK_N, BLOCK_D]
    v_desc,
    starts_q_ptr,
    starts_k_ptr,
    num_sequences,
    window,
    scale,  # softmax scale times log2(e)
    stride_qt,
    stride_qh,
    stride_ot,
    stride_oh,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_N: tl.constexpr,
    WINDOW: tl.constexpr,
):
    """Grid: tiles times KV heads, as in `attend_kernel`."""
    block_q: tl.constexpr = BLOCK_M // GROUP
    tiles = tl.num_programs(0) // KV_HEADS
    head = tl.program_id(0) // tiles
    tile = tiles - 1 - tl.program_id(0) % tiles
    sequence = find_tile(starts_q_ptr, tile, num_sequences, block_q)
    if sequence < 0:
        return
    first_row = tl.load(starts_q_ptr + sequence)
    first_query = (tile - first_row // block_q - sequence) * block_q
    queries = tl.load(starts_q_ptr + sequence + 1) - first_row
    if first_query >= queries:
        return
    first_token = tl.load(starts_k_ptr + sequence)
    context = tl.load(starts_k_ptr + sequence + 1) - first_token
    offs_m = tl.arange(0, BLOCK_M)
    offs_d = tl.arange(0, BLOCK_D)
    query = first_query + offs_m // GROUP
    q_head = head * GROUP + offs_m % GROUP
    valid = (offs_m < block_q * GROUP) & (query < queries)
    row = (first_row + query).to(tl.int64)
    positions = context - queries + query
    q_rows = q_ptr + row * stride_qt + q_head * stride_qh
    q = load_block(q_rows[:, None] + offs_d[None, :], valid, offs_d, D, BLOCK_D, True)

    first_position = context - queries + first_query
    end = tl.minimum(context, first_position + block_q)
    begin = 0
    if WINDOW:
        begin = tl.maximum(0, first_position - window + 1) // BLOCK_N * BLOCK_N
    whole = begin
    if not WINDOW:
        whole = (first_position + 1) // BLOCK_N * BLOCK_N
    top = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    acc = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    for start in tl.range(begin, whole, BLOCK_N):
        acc, top, total = _step(
            acc, top, total, q, k_desc, v_desc, first_token, head * D, start, positions, end,
            scale, window, BLOCK_N, WINDOW, False,
        )  # fmt: skip
    for start in tl.range(whole, end, BLOCK_N):
        acc, top, total = _step(
            acc, top, total, q, k_desc, v_desc, first_token, head * D, start, positions, end,
            scale, window, BLOCK_N, WINDOW, True,
        )  # fmt: skip
    out = acc / tl.where(total > 0, total, 1.0)[:, None]
    out_rows = out_ptr + row * stride_ot + q_head * stride_oh
    keep_out = valid[:, None] & (offs_d < D)[None, :]
    tl.store(out_rows[:, None] + offs_d[None, :], out.to(out_ptr.dtype.element_ty), mask=keep_out)
