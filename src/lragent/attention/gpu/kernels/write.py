"""The cache write: K, V_base and LR rows of new tokens go to their pages in one launch."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def write_kernel(
    k_ptr,
    v_ptr,
    lr_ptr,
    k_pages,
    v_pages,
    lr_pages,
    places_ptr,
    write_base_ptr,
    rows_ptr,
    slots_ptr,
    stride_kt,
    stride_kh,
    stride_vt,
    stride_vh,
    stride_lt,
    stride_ls,
    stride_kp,
    stride_kph,
    stride_kn,
    stride_vp,
    stride_vph,
    stride_vn,
    stride_zp,
    stride_zn,
    stride_zm,
    stride_rows,
    stride_slots,
    KV_HEADS: tl.constexpr,
    BLOCK_H: tl.constexpr,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    PAGE: tl.constexpr,
    SLOTS: tl.constexpr,
    BLOCK_S: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_W: tl.constexpr,
):
    """Grid: one program a token."""
    token = tl.program_id(0).to(tl.int64)
    place = tl.load(places_ptr + token)
    if place < 0:
        return
    page = place // PAGE
    row = place % PAGE
    offs_h = tl.arange(0, BLOCK_H)[:, None]
    offs_d = tl.arange(0, BLOCK_D)[None, :]
    keep = (offs_h < KV_HEADS) & (offs_d < D)
    if tl.load(write_base_ptr + token) != 0:
        k = tl.load(k_ptr + token * stride_kt + offs_h * stride_kh + offs_d, mask=keep)
        v = tl.load(v_ptr + token * stride_vt + offs_h * stride_vh + offs_d, mask=keep)
        k_to = k_pages + page * stride_kp + row * stride_kn + offs_h * stride_kph + offs_d
        v_to = v_pages + page * stride_vp + row * stride_vn + offs_h * stride_vph + offs_d
        tl.store(k_to, k.to(k_pages.dtype.element_ty), mask=keep)
        tl.store(v_to, v.to(v_pages.dtype.element_ty), mask=keep)
    if SLOTS > 0:
        offs_s = tl.arange(0, BLOCK_S)
        offs_w = tl.arange(0, BLOCK_W)[None, :]
        keep_s = offs_s < SLOTS
        slot = tl.load(slots_ptr + token * stride_slots + offs_s, mask=keep_s, other=-1)
        slot = slot.to(tl.int64)[:, None]
        source = tl.load(rows_ptr + token * stride_rows + offs_s, mask=keep_s, other=-1)
        source = source.to(tl.int64)[:, None]
        keep_z = (slot >= 0) & (offs_w < WIDTH)
        z_from = lr_ptr + token * stride_lt + source * stride_ls + offs_w
        z_to = lr_pages + page * stride_zp + row * stride_zn + slot * stride_zm + offs_w
        z = tl.load(z_from, mask=keep_z & (source >= 0), other=0.0)
        tl.store(z_to, z.to(lr_pages.dtype.element_ty), mask=keep_z)
