"""Decode with key LoRA: one query a sequence, the tokens as rows of every product.

`attend_kernel` takes queries as rows. A matrix instruction has 16 of them, so decode with a few
query heads a KV head leaves most rows empty, every warp computes the same scores, and the key term
``RoPE(z B)`` has to pass through shared memory to become the second factor. Here tokens are the
rows: each warp takes its own tokens of a tile, the term stays in the registers that it was computed
in, and the query heads (at most 8) are the narrow side. Each warp keeps an online softmax of its
own; they are added once, after the last tile.
"""

from __future__ import annotations

import triton
import triton.language as tl

from lragent.attention.gpu.kernels.common import BATCH_SIZES, PARTS


@triton.jit
def _tile(
    acc, acc_z, top, total,  # [W, BLOCK_D, M], [W, BLOCK_VR, M], [W, M] twice
    q, q_low, q_high,  # [W, BLOCK_D, M], and its halves
    b_low, b_high,  # [W, BLOCK_KR, BLOCK_H]
    turn_cos, turn_sin,  # [W, N, BLOCK_H]
    start, first, end, z_end, table_ptr, k_ptr, v_ptr, z_ptr, cos_ptr, sin_ptr,
    stride_kp, stride_kn, stride_vp, stride_vn, stride_zp, stride_zn, stride_rot, scale,
    D: tl.constexpr, BLOCK_D: tl.constexpr, PAGE: tl.constexpr, V_RANK: tl.constexpr,
    BLOCK_VR: tl.constexpr, K_RANK: tl.constexpr, BLOCK_KR: tl.constexpr, W: tl.constexpr,
    N: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """One step of each warp's online softmax over its tokens of ``[start, start + W N)``.

    Tokens below ``first`` or from ``end`` on are not seen.
    """
    offs_n = start + tl.arange(0, W)[:, None] * N + tl.arange(0, N)[None, :]
    keep = (offs_n >= first) & (offs_n < end)
    keep_z = offs_n < z_end
    if MASKED:
        keep_z = keep_z & keep
    offs_d = tl.arange(0, BLOCK_D)
    offs_h = tl.arange(0, BLOCK_D // 2)
    offs_vr = tl.arange(0, BLOCK_VR)
    offs_kr = tl.arange(0, BLOCK_KR)
    if MASKED:
        pages = tl.load(table_ptr + offs_n // PAGE, mask=keep, other=0).to(tl.int64)
    else:
        pages = tl.load(table_ptr + offs_n // PAGE).to(tl.int64)
    rows = offs_n % PAGE
    z_rows = z_ptr + pages * stride_zp + rows * stride_zn
    z_key = tl.load(
        (z_rows + V_RANK)[:, :, None] + offs_kr[None, None, :],
        mask=keep_z[:, :, None] & (offs_kr < K_RANK)[None, None, :],
        other=0.0,
    )
    low = tl.dot(z_key, b_low).to(q.dtype)
    high = tl.dot(z_key, b_high).to(q.dtype)
    k_ptrs = (k_ptr + pages * stride_kp + rows * stride_kn)[:, :, None] + offs_d[None, None, :]
    if MASKED or D != BLOCK_D:
        keep_k = keep[:, :, None] & (offs_d < D)[None, None, :]
        k = tl.load(k_ptrs, mask=keep_k, other=0.0)
    else:
        k = tl.load(k_ptrs)
    scores = tl.dot(k, q)
    # The same turn as in `attend_kernel`: queries back to the start of the tile, the term by its
    # tokens' angles from there. Both in the dtype of q, to which the product rounds them anyway.
    at_start = start * stride_rot + offs_h
    cos = tl.load(cos_ptr + at_start, mask=offs_h < D // 2, other=0.0).to(q.dtype)[None, :, None]
    sin = tl.load(sin_ptr + at_start, mask=offs_h < D // 2, other=0.0).to(q.dtype)[None, :, None]
    term = tl.dot(low * turn_cos - high * turn_sin, q_low * cos + q_high * sin)
    term = tl.dot(high * turn_cos + low * turn_sin, q_high * cos - q_low * sin, term)
    scores += term
    if MASKED:
        scores = tl.where(keep[:, :, None], scores, float("-inf"))
    new_top = tl.maximum(top, tl.max(scores, 1) * scale)
    base = new_top
    if MASKED:
        # A warp may have seen nothing yet; subtracting -inf from -inf would give NaN.
        base = tl.where(new_top == float("-inf"), 0.0, new_top)
    p = tl.exp2(scores * scale - base[:, None, :])
    shrink = tl.exp2(top - base)
    total = total * shrink + tl.sum(p, 1)
    p = p.to(q.dtype)
    # Values with their columns as rows: that is how they are multiplied.
    v_ptrs = (v_ptr + pages * stride_vp + rows * stride_vn)[:, None, :] + offs_d[None, :, None]
    if MASKED or D != BLOCK_D:
        keep_v = keep[:, None, :] & (offs_d < D)[None, :, None]
        v = tl.load(v_ptrs, mask=keep_v, other=0.0)
    else:
        v = tl.load(v_ptrs)
    acc = tl.dot(v, p, acc * shrink[:, None, :])
    if V_RANK > 0:
        z = tl.load(
            z_rows[:, None, :] + offs_vr[None, :, None],
            mask=keep_z[:, None, :] & (offs_vr < V_RANK)[None, :, None],
            other=0.0,
        )
        acc_z = tl.dot(z, p, acc_z * shrink[:, None, :])
    return acc, acc_z, new_top, total


@triton.jit
def _for_each_warp(x, W: tl.constexpr):
    """``[W, *x.shape]``, the same for every warp."""
    return tl.broadcast_to(x[None, :, :], (W, x.shape[0], x.shape[1]))


@triton.jit(do_not_specialize=BATCH_SIZES, do_not_specialize_on_alignment=PARTS)
def decode_kernel(
    q_ptr,
    out_ptr,
    partial_ptr,  # [S, Hq, splits, D] fp32, used when SPLIT
    lse_ptr,  # [S, Hq, splits] fp32
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
    K_RANK: tl.constexpr,
    BLOCK_KR: tl.constexpr,
    ALIGN_Z: tl.constexpr,
    WINDOW: tl.constexpr,
    SPLIT: tl.constexpr,
    W: tl.constexpr,
):
    """Grid: (sequences times KV heads, splits); arguments as in `attend_kernel`.

    It serves the sequences with one query, whatever ``min_query`` and ``max_query`` are.
    """
    sequence = tl.program_id(0) // KV_HEADS
    head = tl.program_id(0) % KV_HEADS
    split = tl.program_id(1)
    row = tl.load(starts_ptr + sequence).to(tl.int64)
    queries = tl.load(starts_ptr + sequence + 1) - row
    if queries != 1:
        return

    context = tl.load(lens_ptr + sequence)
    adapter = tl.load(adapter_ptr + sequence).to(tl.int64)
    slot = tl.load(slot_ptr + sequence).to(tl.int64)
    table_ptr = tables_ptr + sequence.to(tl.int64) * stride_table
    first = 0
    if WINDOW:
        first = tl.maximum(0, context - window)
    begin = first // BLOCK_N * BLOCK_N
    end = context
    if SPLIT:
        share = tl.cdiv(tl.cdiv(end - begin, BLOCK_N), splits) * BLOCK_N
        begin = begin + split * share
        end = tl.minimum(end, begin + share)
    # Tiles up to here are seen whole and need no mask.
    whole = begin
    if not WINDOW:
        whole = tl.maximum(begin, end // BLOCK_N * BLOCK_N)

    # LR strides come divided by ALIGN_Z: times a constant, the compiler knows their alignment.
    stride_zp *= ALIGN_Z
    stride_zn *= ALIGN_Z
    stride_zm *= ALIGN_Z
    # Without an adapter no LR row is read: the block may hold anything.
    z_end = tl.where((adapter >= 0) & (slot >= 0), end, 0)
    k_ptr += head.to(tl.int64) * stride_kh
    v_ptr += head.to(tl.int64) * stride_vh
    z_ptr = lr_ptr + tl.maximum(slot, 0) * stride_zm
    vb_ptr += tl.maximum(adapter, 0) * stride_vba + head * D
    kb_ptr += tl.maximum(adapter, 0) * stride_kba + head * D

    N: tl.constexpr = BLOCK_N // W
    half: tl.constexpr = D // 2
    offs_m = tl.arange(0, BLOCK_M)
    offs_d = tl.arange(0, BLOCK_D)
    offs_h = tl.arange(0, BLOCK_D // 2)
    offs_kr = tl.arange(0, BLOCK_KR)
    q_head = head * GROUP + offs_m
    valid = offs_m < GROUP
    q_columns = (q_ptr + row * stride_qt + q_head * stride_qh)[None, :]
    keep_h = (offs_h < half)[:, None] & valid[None, :]
    q = tl.load(q_columns + offs_d[:, None], (offs_d < D)[:, None] & valid[None, :], 0.0)
    q_low = tl.load(q_columns + offs_h[:, None], keep_h, 0.0)
    q_high = tl.load(q_columns + (offs_h + half)[:, None], keep_h, 0.0)
    b_ptrs = kb_ptr + offs_kr[:, None] * stride_kbr + offs_h[None, :]
    keep_b = (offs_kr < K_RANK)[:, None] & (offs_h < half)[None, :]
    b_low = tl.load(b_ptrs, keep_b, 0.0).to(q.dtype)
    b_high = tl.load(b_ptrs + half, keep_b, 0.0).to(q.dtype)
    steps = tl.arange(0, W)[:, None] * N + tl.arange(0, N)[None, :]
    turn = (steps * stride_rot)[:, :, None] + offs_h[None, None, :]
    keep_turn = (steps < num_positions)[:, :, None] & (offs_h < half)[None, None, :]
    # The factor that some RoPE variants fold into the tables must count once, not twice.
    factor = 1.0 / tl.load(cos_ptr)
    turn_cos = (tl.load(cos_ptr + turn, keep_turn, 0.0) * factor).to(q.dtype)
    turn_sin = (tl.load(sin_ptr + turn, keep_turn, 0.0) * factor).to(q.dtype)
    q = _for_each_warp(q, W)
    q_low = _for_each_warp(q_low, W)
    q_high = _for_each_warp(q_high, W)
    b_low = _for_each_warp(b_low, W)
    b_high = _for_each_warp(b_high, W)

    top = tl.full([W, BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([W, BLOCK_M], tl.float32)
    acc = tl.zeros([W, BLOCK_D, BLOCK_M], tl.float32)
    acc_z = tl.zeros([W, BLOCK_VR, BLOCK_M], tl.float32)
    for start in tl.range(begin, whole, BLOCK_N):
        acc, acc_z, top, total = _tile(
            acc, acc_z, top, total, q, q_low, q_high, b_low, b_high, turn_cos, turn_sin,
            start, first, end, z_end, table_ptr, k_ptr, v_ptr, z_ptr, cos_ptr, sin_ptr,
            stride_kp, stride_kn, stride_vp, stride_vn, stride_zp, stride_zn, stride_rot, scale,
            D, BLOCK_D, PAGE, V_RANK, BLOCK_VR, K_RANK, BLOCK_KR, W, N, False,
        )  # fmt: skip
    for start in tl.range(whole, end, BLOCK_N):
        acc, acc_z, top, total = _tile(
            acc, acc_z, top, total, q, q_low, q_high, b_low, b_high, turn_cos, turn_sin,
            start, first, end, z_end, table_ptr, k_ptr, v_ptr, z_ptr, cos_ptr, sin_ptr,
            stride_kp, stride_kn, stride_vp, stride_vn, stride_zp, stride_zn, stride_rot, scale,
            D, BLOCK_D, PAGE, V_RANK, BLOCK_VR, K_RANK, BLOCK_KR, W, N, True,
        )  # fmt: skip

    # The warps' shares are added in one order, so repeats are equal bit by bit.
    most = tl.max(top, 0)
    weight = tl.exp2(top - tl.where(most == float("-inf"), 0.0, most)[None, :])
    total = tl.sum(total * weight, 0)
    # Normalised here: an unscaled sum over a long context can leave the range of fp16.
    weight = weight / tl.where(total > 0, total, 1.0)[None, :]
    result = tl.sum(acc * weight[:, None, :], 0)
    if V_RANK > 0:
        result_z = tl.sum(acc_z * weight[:, None, :], 0)
        offs_vr = tl.arange(0, BLOCK_VR)
        b_ptrs = vb_ptr + offs_vr[None, :] * stride_vbr + offs_d[:, None]
        rank = tl.where(z_end > 0, V_RANK, 0)
        keep_vb = (offs_vr < rank)[None, :] & (offs_d < D)[:, None]
        b = tl.load(b_ptrs, keep_vb, 0.0).to(q.dtype)
        result = tl.dot(b, result_z.to(q.dtype), result)
    keep_out = (offs_d < D)[:, None] & valid[None, :]
    if SPLIT:
        place = (sequence.to(tl.int64) * (KV_HEADS * GROUP) + q_head) * splits + split
        tl.store(partial_ptr + (place * D)[None, :] + offs_d[:, None], result, mask=keep_out)
        lse = tl.where(total > 0, most + tl.log2(total), float("-inf"))
        tl.store(lse_ptr + place, lse, mask=valid)
    else:
        out_columns = (out_ptr + row * stride_ot + q_head * stride_oh)[None, :]
        out = result.to(out_ptr.dtype.element_ty)
        tl.store(out_columns + offs_d[:, None], out, mask=keep_out)
