"""Launches of the cache write."""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
import triton
from torch import Tensor

from lragent.attention.gpu.kernels.write import write_kernel
from lragent.attention.gpu.relaunch import Launch, launch_of


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
