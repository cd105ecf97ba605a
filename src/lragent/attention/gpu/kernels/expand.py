"""Gather contexts into contiguous ``K = k + RoPE(z_k B_k)`` and ``V = v + z_v B_v``, for dense
attention that knows no adapters. `plan.py` says when that is cheaper than reading the pages as they
lie.
"""

from __future__ import annotations

import triton
import triton.language as tl

from lragent.attention.gpu.kernels.common import PARTS, find_tile, load_block, locate, low_rank_key


@triton.jit
def _full_values(
    v_rows,  # [n] pointers to each token's base values
    z_rows,  # [n] pointers to each token's LR row
    keep,  # [n] tokens whose rows may be read
    has_z,  # whether the sequence has an adapter and a slot
    b_ptr,  # B_v of this adapter and head
    stride_b,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    RANK: tl.constexpr,
    BLOCK_R: tl.constexpr,
):
    """``v + z B`` of a tile of tokens, ``[n, BLOCK_D]``; zeros where a row is not kept."""
    offs_d = tl.arange(0, BLOCK_D)
    v = load_block(v_rows[:, None] + offs_d[None, :], keep, offs_d, D, BLOCK_D, True)
    if RANK > 0 and has_z:
        total = tl.zeros([v_rows.shape[0], BLOCK_D], tl.float32)
        for offset in tl.static_range(0, RANK, BLOCK_R):
            offs_r = offset + tl.arange(0, BLOCK_R)
            z = tl.load(
                z_rows[:, None] + offs_r[None, :],
                mask=keep[:, None] & (offs_r < RANK)[None, :],
                other=0.0,
            )
            b = tl.load(
                b_ptr + offs_r[:, None] * stride_b + offs_d[None, :],
                mask=(offs_r < RANK)[:, None] & (offs_d < D)[None, :],
                other=0.0,
            )
            # One long chain of sums would round more than PyTorch in fp32, and a plus be made one.
            term = tl.dot(z, b.to(v.dtype), input_precision="ieee")
            total = tl.fma(term, 1.0, total)
        v = (v.to(tl.float32) + total).to(v.dtype)
    return v


@triton.jit(
    do_not_specialize=("num_sequences", "stride_table"), do_not_specialize_on_alignment=PARTS
)
def expand_kernel(
    k_out_ptr,  # [tokens, Hk, D]
    v_out_ptr,
    k_ptr,
    v_ptr,
    lr_ptr,
    vb_ptr,
    kb_ptr,
    cos_ptr,
    sin_ptr,
    tables_ptr,
    starts_ptr,  # [S+1], where each context starts in the output
    adapter_ptr,
    slot_ptr,
    num_sequences,
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
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_N: tl.constexpr,
    PAGE: tl.constexpr,
    V_RANK: tl.constexpr,
    BLOCK_VR: tl.constexpr,
    K_RANK: tl.constexpr,
    BLOCK_KR: tl.constexpr,
    ALIGN_Z: tl.constexpr,
):
    """Grid: (tiles times KV heads); a tile is BLOCK_N tokens of one sequence."""
    head = tl.program_id(0) % KV_HEADS
    tile = tl.program_id(0) // KV_HEADS
    sequence = find_tile(starts_ptr, tile, num_sequences, BLOCK_N)
    # Loaded before the first of them is needed: they come together.
    first = tl.load(starts_ptr + sequence)
    tokens = tl.load(starts_ptr + sequence + 1) - first
    adapter = tl.load(adapter_ptr + sequence).to(tl.int64)
    slot = tl.load(slot_ptr + sequence).to(tl.int64)
    start = (tile - first // BLOCK_N - sequence) * BLOCK_N
    if start >= tokens:
        return
    has_z = (adapter >= 0) & (slot >= 0)
    offs_n = start + tl.arange(0, BLOCK_N)
    offs_d = tl.arange(0, BLOCK_D)
    keep = offs_n < tokens
    table_ptr = tables_ptr + sequence.to(tl.int64) * stride_table
    pages, rows = locate(table_ptr, offs_n, keep, PAGE, True)
    out_rows = ((first + offs_n).to(tl.int64) * KV_HEADS + head) * D
    keep_out = keep[:, None] & (offs_d < D)[None, :]
    k_rows = k_ptr + head.to(tl.int64) * stride_kh + pages * stride_kp + rows * stride_kn
    v_rows = v_ptr + head.to(tl.int64) * stride_vh + pages * stride_vp + rows * stride_vn
    # LR strides come divided by ALIGN_Z: times a constant, the compiler knows their alignment.
    stride_zp *= ALIGN_Z
    stride_zn *= ALIGN_Z
    stride_zm *= ALIGN_Z
    z_rows = lr_ptr + tl.maximum(slot, 0) * stride_zm + pages * stride_zp + rows * stride_zn
    dtype = k_out_ptr.dtype.element_ty

    if K_RANK > 0:
        half: tl.constexpr = D // 2
        block_h: tl.constexpr = BLOCK_D // 2
        offs_h = tl.arange(0, block_h)
        keep_h = keep[:, None] & (offs_h < half)[None, :]
        k_ptrs = k_rows[:, None] + offs_h[None, :]
        k_low = tl.load(k_ptrs, mask=keep_h, other=0.0).to(tl.float32)
        k_high = tl.load(k_ptrs + half, mask=keep_h, other=0.0).to(tl.float32)
        low, high = low_rank_key(
            z_rows + V_RANK,
            offs_n < tl.where(has_z, tokens, 0),
            kb_ptr + tl.maximum(adapter, 0) * stride_kba + head * D,
            stride_kbr,
            D,
            block_h,
            K_RANK,
            BLOCK_KR,
            dtype,
        )
        rot = offs_n[:, None].to(tl.int64) * stride_rot + offs_h[None, :]
        cos = tl.load(cos_ptr + rot, mask=keep_h, other=0.0)
        sin = tl.load(sin_ptr + rot, mask=keep_h, other=0.0)
        k_out = k_out_ptr + out_rows[:, None] + offs_h[None, :]
        tl.store(k_out, (k_low + low * cos - high * sin).to(dtype), mask=keep_h)
        tl.store(k_out + half, (k_high + high * cos + low * sin).to(dtype), mask=keep_h)
    else:
        k = load_block(k_rows[:, None] + offs_d[None, :], keep, offs_d, D, BLOCK_D, True)
        tl.store(k_out_ptr + out_rows[:, None] + offs_d[None, :], k, mask=keep_out)

    v = _full_values(
        v_rows,
        z_rows,
        keep,
        has_z,
        vb_ptr + tl.maximum(adapter, 0) * stride_vba + head * D,
        stride_vbr,
        D,
        BLOCK_D,
        V_RANK,
        BLOCK_VR,
    )
    tl.store(v_out_ptr + out_rows[:, None] + offs_d[None, :], v, mask=keep_out)
