"""The cache write: K, V_base and LR rows of new tokens go to their pages in one launch."""

# Triton rewrites these functions; its types are not the ones a Python type checker sees.
# pyright: reportOptionalMemberAccess=false, reportAttributeAccessIssue=false
# pyright: reportArgumentType=false, reportOperatorIssue=false, reportIndexIssue=false
# pyright: reportGeneralTypeIssues=false, reportCallIssue=false

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from lragent.attention.triton.relaunch import Launch, launch_of


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


class WriteCall(NamedTuple):
    """The write of one batch, the same in every layer: see `prepare_write`.

    Attributes:
        launch: launches `write_kernel`.
        tokens: of the batch.
        batch: its tensors that no layer changes: LR rows or None, places, flags, which LR rows,
            slots.
        strides: of all tensors.
    """

    launch: Launch
    tokens: int
    batch: tuple[Tensor | None, Tensor, Tensor, Tensor, Tensor]
    strides: tuple[int, ...]

    def __call__(
        self, k: Tensor, v: Tensor, k_pages: Tensor, v_pages: Tensor, lr_pages: Tensor | None
    ) -> None:
        """Launch the kernel for one layer, laid out like the one that was prepared for."""
        lr, *others = self.batch
        # Tensors that stand in are never read or written.
        source, target = (k, k_pages) if lr is None or lr_pages is None else (lr, lr_pages)
        self.launch(
            (self.tokens, 1, 1), (k, v, source, k_pages, v_pages, target, *others), self.strides
        )


def prepare_write(
    k: Tensor,
    v: Tensor,
    lr: Tensor | None,
    k_pages: Tensor,
    v_pages: Tensor,
    lr_pages: Tensor | None,
    slot_mapping: Tensor,
    write_base: Tensor,
    lr_rows: Tensor,
    lr_slots: Tensor,
) -> WriteCall:
    """The write of a batch, to be launched; arguments as in `lragent.attention.write_pages`.

    The rows of ``k``, ``v`` and ``lr`` are contiguous.
    """
    tokens, heads, width = k.shape
    slots = 0 if lr is None or lr_pages is None else lr_slots.shape[1]
    if not slots:
        lr = None
    source = k if lr is None else lr
    target = k_pages if lr is None or lr_pages is None else lr_pages
    strides = (
        k.stride(0), k.stride(1), v.stride(0), v.stride(1), source.stride(0), source.stride(1),
        *k_pages.stride()[:3], *v_pages.stride()[:3], *target.stride()[:3],
        lr_rows.stride(0), lr_slots.stride(0),
    )  # fmt: skip
    typed = (k, v, source, k_pages, slot_mapping, lr_rows, lr_slots)
    dtypes = tuple(tensor.dtype for tensor in typed)
    launch = _launch(
        k.device, strides, dtypes, heads, width, k_pages.shape[2], slots, source.shape[2]
    )
    batch = (lr, slot_mapping, write_base.view(torch.uint8), lr_rows, lr_slots)
    return WriteCall(launch, tokens, batch, strides)


def launch_write(
    k: Tensor,
    v: Tensor,
    lr: Tensor | None,
    k_pages: Tensor,
    v_pages: Tensor,
    lr_pages: Tensor | None,
    slot_mapping: Tensor,
    write_base: Tensor,
    lr_rows: Tensor,
    lr_slots: Tensor,
) -> None:
    """Launch `write_kernel`; arguments as in `prepare_write`."""
    if not k.shape[0]:
        return
    call = prepare_write(
        k, v, lr, k_pages, v_pages, lr_pages, slot_mapping, write_base, lr_rows, lr_slots
    )  # fmt: skip
    call(k, v, k_pages, v_pages, lr_pages)


@functools.cache
def _launch(
    device: torch.device,
    strides: tuple[int, ...],
    dtypes: tuple[torch.dtype, ...],
    heads: int,
    width: int,
    page: int,
    slots: int,
    columns: int,
) -> Launch:
    """The launch for a layout."""
    return launch_of(
        write_kernel, device, (strides, dtypes),
        KV_HEADS=heads, BLOCK_H=triton.next_power_of_2(heads),
        D=width, BLOCK_D=triton.next_power_of_2(width), PAGE=page,
        SLOTS=slots, BLOCK_S=triton.next_power_of_2(max(slots, 1)),
        WIDTH=columns, BLOCK_W=triton.next_power_of_2(columns),
        num_warps=4,
    )  # fmt: skip
