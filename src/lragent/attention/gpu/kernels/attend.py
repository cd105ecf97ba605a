"""The attention kernel: tiles of queries against the pages of their sequence.

One program takes up to BLOCK_M rows (queries of one sequence times the query heads of one KV head)
and a share of the context. It keeps two accumulators that are fed by the same probabilities,
``P V`` and ``P z``, and expands the second by B once after its last tile: paper, section
"Flash-LoRA-Attention". With key LoRA the scores get the term ``q . RoPE(z B)`` tile by tile.

Decode is the same kernel with one sequence a tile. When the context is shared out (``splits``),
each share leaves a normalised partial result and the base-2 logarithm of its sum, and
`combine_kernel` adds them in a fixed order, so results repeat bit by bit.
"""

from __future__ import annotations

import triton
import triton.language as tl

from lragent.attention.gpu.kernels.common import (
    BATCH_SIZES,
    PARTS,
    find_tile,
    load_block,
    locate,
    low_rank_key,
)


@triton.jit
def _tile(
    acc,
    acc_z,
    top,
    total,
    q,
    q_low,
    q_high,
    turn_cos,
    turn_sin,
    start,
    end,
    positions,
    table_ptr,
    k_ptr,
    v_ptr,
    z_ptr,
    kb_ptr,
    cos_ptr,
    sin_ptr,
    z_end,
    stride_kp,
    stride_kn,
    stride_vp,
    stride_vn,
    stride_zp,
    stride_zn,
    stride_kbr,
    stride_rot,
    scale,
    window,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_N: tl.constexpr,
    PAGE: tl.constexpr,
    V_RANK: tl.constexpr,
    BLOCK_VR: tl.constexpr,
    K_RANK: tl.constexpr,
    BLOCK_KR: tl.constexpr,
    WINDOW: tl.constexpr,
    EXACT: tl.constexpr,
    MASKED: tl.constexpr,
):
    """One step of online softmax over tokens ``[start, start + BLOCK_N)``."""
    offs_n = start + tl.arange(0, BLOCK_N)
    keep = offs_n < end
    keep_z = offs_n < z_end
    offs_d = tl.arange(0, BLOCK_D)
    pages, rows = locate(table_ptr, offs_n, keep, PAGE, MASKED)
    k_rows = k_ptr + pages * stride_kp + rows * stride_kn
    z_rows = z_ptr + pages * stride_zp + rows * stride_zn
    offs_h = tl.arange(0, BLOCK_D // 2)
    keep_h = offs_h < D // 2
    if K_RANK > 0:
        low, high = low_rank_key(
            z_rows + V_RANK, keep_z, kb_ptr, stride_kbr, D, BLOCK_D // 2, K_RANK, BLOCK_KR, q.dtype
        )
        low = low.to(q.dtype)
        high = high.to(q.dtype)
    if K_RANK > 0 and EXACT:
        # fp32: complete the keys first. Each other order of the sums rounds more than PyTorch.
        at = offs_n[:, None] * stride_rot + offs_h[None, :]
        cos = tl.load(cos_ptr + at, mask=keep[:, None] & keep_h[None, :], other=0.0)
        sin = tl.load(sin_ptr + at, mask=keep[:, None] & keep_h[None, :], other=0.0)
        k_ptrs = k_rows[:, None] + offs_h[None, :]
        k_low = load_block(k_ptrs, keep, offs_h, D // 2, BLOCK_D // 2, MASKED)
        k_high = load_block(k_ptrs + D // 2, keep, offs_h, D // 2, BLOCK_D // 2, MASKED)
        k_low += low * cos - high * sin
        k_high += high * cos + low * sin
        scores = tl.dot(q_low, tl.trans(k_low), input_precision="ieee")
        other = tl.dot(q_high, tl.trans(k_high), input_precision="ieee")
        # Two short chains of sums instead of a long one; the compiler would make a plus one again.
        scores = tl.fma(other, 1.0, scores)
    else:
        k = load_block(k_rows[:, None] + offs_d[None, :], keep, offs_d, D, BLOCK_D, MASKED)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee")
    if K_RANK > 0 and not EXACT:
        # RoPE at start + i is RoPE at start after RoPE at i, and q . R u = (R^T q) . u: the queries
        # are turned back to the start of the tile, so the term needs the same BLOCK_N angles in
        # every tile, which stay in registers, and the base keys go to the product untouched.
        at_start = start * stride_rot + offs_h
        cos = tl.load(cos_ptr + at_start, mask=keep_h, other=0.0)[None, :]
        sin = tl.load(sin_ptr + at_start, mask=keep_h, other=0.0)[None, :]
        back_low = (q_low * cos + q_high * sin).to(q.dtype)
        back_high = (q_high * cos - q_low * sin).to(q.dtype)
        term_low = low * turn_cos - high * turn_sin
        term_high = high * turn_cos + low * turn_sin
        scores = tl.dot(back_low, tl.trans(term_low), scores, input_precision="ieee")
        scores = tl.dot(back_high, tl.trans(term_high), scores, input_precision="ieee")
    if MASKED:
        seen = keep[None, :] & (offs_n[None, :] <= positions[:, None])
        if WINDOW:
            seen = seen & (offs_n[None, :] > positions[:, None] - window)
        scores = tl.where(seen, scores, float("-inf"))
    # Scaled inside the exponent, in one fused step: half the work and half the rounding.
    new_top = tl.maximum(top, tl.max(scores, 1) * scale)
    base = new_top
    if MASKED:
        # A row may have seen nothing yet; subtracting -inf from -inf would give NaN.
        base = tl.where(new_top == float("-inf"), 0.0, new_top)
    p = tl.exp2(scores * scale - base[:, None])
    shrink = tl.exp2(top - base)
    total = total * shrink + tl.sum(p, 1)
    p = p.to(q.dtype)
    v_ptrs = (v_ptr + pages * stride_vp + rows * stride_vn)[:, None] + offs_d[None, :]
    v = load_block(v_ptrs, keep, offs_d, D, BLOCK_D, MASKED)
    acc = _accumulate(p, v, acc * shrink[:, None], EXACT)
    if V_RANK > 0:
        offs_r = tl.arange(0, BLOCK_VR)
        z_ptrs = z_rows[:, None] + offs_r[None, :]
        z = load_block(z_ptrs, keep_z, offs_r, V_RANK, BLOCK_VR, True)
        acc_z = _accumulate(p, z, acc_z * shrink[:, None], EXACT)
    return acc, acc_z, new_top, total


@triton.jit
def _accumulate(p, v, acc, EXACT: tl.constexpr):
    """``acc + p v``. In fp32 a tile is summed up by itself: one chain of sums over a long context
    rounds several times more than PyTorch."""
    if EXACT:
        # Not a plus, which the compiler would turn into one chain again.
        return tl.fma(tl.dot(p, v, input_precision="ieee"), 1.0, acc)
    return tl.dot(p, v, acc, input_precision="ieee")


@triton.jit
def _expand(
    acc,
    acc_z,
    b_ptr,
    stride_b,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    RANK: tl.constexpr,
    BLOCK_R: tl.constexpr,
    CHUNK: tl.constexpr,
    DTYPE: tl.constexpr,
):
    """``acc + acc_z B`` in fp32, with CHUNK rows of B at a time so that B fits in shared memory."""
    offs_d = tl.arange(0, BLOCK_D)
    rows: tl.constexpr = acc_z.shape[0]
    for first in tl.static_range(0, RANK, CHUNK):
        if BLOCK_R == CHUNK:
            part = acc_z
        else:
            parts = tl.reshape(acc_z, [rows, BLOCK_R // CHUNK, CHUNK])
            number = tl.arange(0, BLOCK_R // CHUNK)[None, :, None]
            part = tl.sum(tl.where(number == first // CHUNK, parts, 0.0), 1)
        offs_r = first + tl.arange(0, CHUNK)
        b = tl.load(
            b_ptr + offs_r[:, None] * stride_b + offs_d[None, :],
            mask=(offs_r < RANK)[:, None] & (offs_d < D)[None, :],
            other=0.0,
        )
        acc = tl.dot(part.to(DTYPE), b.to(DTYPE), acc, input_precision="ieee")
    return acc


@triton.jit(do_not_specialize=BATCH_SIZES, do_not_specialize_on_alignment=PARTS)
def attend_kernel(
    q_ptr,
    out_ptr,
    partial_ptr,  # [T or S, Hq, splits, D] fp32, used when SPLIT
    lse_ptr,  # [T or S, Hq, splits] fp32; a line a sequence in decode, else a row of q
    k_ptr,
    v_ptr,
    lr_ptr,
    vb_ptr,
    kb_ptr,
    cos_ptr,
    sin_ptr,
    tables_ptr,
    starts_ptr,
    lens_ptr,
    adapter_ptr,
    slot_ptr,
    num_sequences,
    splits,
    min_query,
    max_query,
    window,
    num_positions,  # rows of cos and sin
    scale,  # softmax scale times log2(e)
    stride_qt,
    stride_qh,
    stride_ot,
    stride_oh,
    stride_kp,
    stride_kh,
    stride_kn,
    stride_vp,
    stride_vh,
    stride_vn,
    stride_zp,
    stride_zn,
    stride_zm,
    stride_vba,
    stride_vbr,
    stride_kba,
    stride_kbr,
    stride_rot,
    stride_table,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_N: tl.constexpr,
    PAGE: tl.constexpr,
    V_RANK: tl.constexpr,
    BLOCK_VR: tl.constexpr,
    CHUNK_VR: tl.constexpr,
    K_RANK: tl.constexpr,
    BLOCK_KR: tl.constexpr,
    ALIGN_Z: tl.constexpr,
    WINDOW: tl.constexpr,
    EXACT: tl.constexpr,
    DECODE: tl.constexpr,
    SPLIT: tl.constexpr,
):
    """Grid: (tiles times KV heads, splits); see the module docstring."""
    block_q: tl.constexpr = BLOCK_M // GROUP
    split = tl.program_id(1)
    if DECODE:
        # Neighbours take the heads of one sequence: they read the same LR rows.
        sequence = tl.program_id(0) // KV_HEADS
        head = tl.program_id(0) % KV_HEADS
        first_row = tl.load(starts_ptr + sequence)
        first_query = 0
    else:
        # Neighbours take the tiles of one head, the longest context first.
        tiles = tl.num_programs(0) // KV_HEADS
        head = tl.program_id(0) // tiles
        tile = tiles - 1 - tl.program_id(0) % tiles
        sequence = find_tile(starts_ptr, tile, num_sequences, block_q)
        if sequence < 0:
            return
        first_row = tl.load(starts_ptr + sequence)
        first_query = (tile - first_row // block_q - sequence) * block_q
    queries = tl.load(starts_ptr + sequence + 1) - first_row
    if (queries < min_query) | (queries > max_query) | (first_query >= queries):
        return

    context = tl.load(lens_ptr + sequence)
    adapter = tl.load(adapter_ptr + sequence).to(tl.int64)
    slot = tl.load(slot_ptr + sequence).to(tl.int64)
    has_z = (adapter >= 0) & (slot >= 0)
    table_ptr = tables_ptr + sequence.to(tl.int64) * stride_table
    offs_m = tl.arange(0, BLOCK_M)
    offs_d = tl.arange(0, BLOCK_D)
    query = first_query + offs_m // GROUP
    q_head = head * GROUP + offs_m % GROUP
    valid = (offs_m < block_q * GROUP) & (query < queries)
    row = (first_row + query).to(tl.int64)
    positions = context - queries + query

    q_rows = q_ptr + row * stride_qt + q_head * stride_qh
    q = load_block(q_rows[:, None] + offs_d[None, :], valid, offs_d, D, BLOCK_D, True)
    q_low = q
    q_high = q
    turn_cos = q
    turn_sin = q
    if K_RANK > 0:
        half: tl.constexpr = D // 2
        block_h: tl.constexpr = BLOCK_D // 2
        offs_h = tl.arange(0, block_h)
        steps = tl.arange(0, BLOCK_N)
        turn = steps[:, None] * stride_rot + offs_h[None, :]
        keep_turn = (steps < num_positions)[:, None] & (offs_h < half)[None, :]
        # The factor that some RoPE variants fold into the tables must count once, not twice.
        factor = 1.0 / tl.load(cos_ptr)
        turn_cos = (tl.load(cos_ptr + turn, mask=keep_turn, other=0.0) * factor).to(q.dtype)
        turn_sin = (tl.load(sin_ptr + turn, mask=keep_turn, other=0.0) * factor).to(q.dtype)
        q_low = load_block(q_rows[:, None] + offs_h[None, :], valid, offs_h, half, block_h, True)
        q_high = load_block(
            q_rows[:, None] + (offs_h + half)[None, :], valid, offs_h, half, block_h, True
        )

    first_position = context - queries + first_query
    last_position = tl.minimum(context - 1, first_position + block_q - 1)
    begin = 0
    if WINDOW:
        begin = tl.maximum(0, first_position - window + 1) // BLOCK_N * BLOCK_N
    end = last_position + 1
    if SPLIT:
        share = tl.cdiv(tl.cdiv(end - begin, BLOCK_N), splits) * BLOCK_N
        begin = begin + split * share
        end = tl.minimum(end, begin + share)
    # Tiles up to here are seen by every row and need no mask.
    whole = begin
    if not WINDOW:
        whole = tl.maximum(begin, tl.minimum(end, first_position + 1) // BLOCK_N * BLOCK_N)

    # LR strides come divided by ALIGN_Z: times a constant, the compiler knows their alignment.
    stride_zp *= ALIGN_Z
    stride_zn *= ALIGN_Z
    stride_zm *= ALIGN_Z
    # Without an adapter no LR row is read: the block may hold anything.
    z_end = tl.where(has_z, end, 0)
    k_ptr += head.to(tl.int64) * stride_kh
    v_ptr += head.to(tl.int64) * stride_vh
    z_ptr = lr_ptr + tl.maximum(slot, 0) * stride_zm
    vb_ptr += tl.maximum(adapter, 0) * stride_vba + head * D
    kb_ptr += tl.maximum(adapter, 0) * stride_kba + head * D

    top = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    acc = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    acc_z = tl.zeros([BLOCK_M, BLOCK_VR], tl.float32)
    for start in tl.range(begin, whole, BLOCK_N):
        acc, acc_z, top, total = _tile(
            acc, acc_z, top, total, q, q_low, q_high, turn_cos, turn_sin, start, end, positions,
            table_ptr, k_ptr, v_ptr, z_ptr, kb_ptr, cos_ptr, sin_ptr, z_end,
            stride_kp, stride_kn, stride_vp, stride_vn, stride_zp, stride_zn, stride_kbr,
            stride_rot, scale, window,
            D, BLOCK_D, BLOCK_N, PAGE, V_RANK, BLOCK_VR, K_RANK, BLOCK_KR, WINDOW, EXACT, False,
        )  # fmt: skip
    for start in tl.range(whole, end, BLOCK_N):
        acc, acc_z, top, total = _tile(
            acc, acc_z, top, total, q, q_low, q_high, turn_cos, turn_sin, start, end, positions,
            table_ptr, k_ptr, v_ptr, z_ptr, kb_ptr, cos_ptr, sin_ptr, z_end,
            stride_kp, stride_kn, stride_vp, stride_vn, stride_zp, stride_zn, stride_kbr,
            stride_rot, scale, window,
            D, BLOCK_D, BLOCK_N, PAGE, V_RANK, BLOCK_VR, K_RANK, BLOCK_KR, WINDOW, EXACT, True,
        )  # fmt: skip

    weight = 1.0 / tl.where(total > 0, total, 1.0)
    acc = acc * weight[:, None]
    if V_RANK > 0 and has_z:
        # Normalised first: an unscaled sum over a long context can leave the range of fp16.
        acc_z = acc_z * weight[:, None]
        acc = _expand(
            acc, acc_z, vb_ptr, stride_vbr, D, BLOCK_D, V_RANK, BLOCK_VR, CHUNK_VR, q.dtype
        )
    keep_out = valid[:, None] & (offs_d < D)[None, :]
    if SPLIT:
        line = row
        if DECODE:
            line = sequence + offs_m.to(tl.int64) * 0
        place = (line * (KV_HEADS * GROUP) + q_head) * splits + split
        tl.store(partial_ptr + (place * D)[:, None] + offs_d[None, :], acc, mask=keep_out)
        lse = tl.where(total > 0, top + tl.log2(total), float("-inf"))
        tl.store(lse_ptr + place, lse, mask=valid)
    else:
        out_rows = out_ptr + row * stride_ot + q_head * stride_oh
        out = acc.to(out_ptr.dtype.element_ty)
        tl.store(out_rows[:, None] + offs_d[None, :], out, mask=keep_out)
