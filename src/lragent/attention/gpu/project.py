"""The LR projection: rows of A by `rows_kernel` for few tokens, one matrix product for many."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import torch
import triton
from torch import Tensor

from lragent.attention.gpu.kernels.project import rows_kernel
from lragent.attention.gpu.relaunch import launch_of

MOST_ROWS = 256
"""Tokens times slots up to which `rows_kernel` is faster than ``torch.mm`` (benchmarks/LOG.md)."""

MOST_COLUMNS = 1024
"""Columns of all A together up to which every token is multiplied with all of them; more would be
as much work as k_proj of a model with 8 KV heads of 128."""


class RowsTile(NamedTuple):
    """How `rows_kernel` is launched.

    Attributes:
        block_t: tokens of a program.
        block_w: columns of a program, all of one slot.
        block_d: hidden dimensions in one step, of each share.
        shares: shares of the hidden dimension that the matrix unit takes side by side; 0 to
            multiply without it.
        warps: warps of a program.
        stages: depth of software pipelining.
    """

    block_t: int
    block_w: int
    block_d: int
    shares: int
    warps: int
    stages: int


def rows_tile(tokens: int, slots: int, columns: int, width: int, dtype: torch.dtype) -> RowsTile:
    """The fastest tile of `rows_kernel`; fp32 stays off the matrix unit, which would round it."""
    whole = 1 << (width - 1).bit_length()
    rows = tokens * slots * -(-columns // 16)
    if rows <= 16 or (rows <= 32 and slots > 1):
        return RowsTile(1, 1, min(whole, 4096), 0, 8, 1)
    if rows <= 32:
        return RowsTile(1, 4, min(whole, 4096), 0, 8, 1)
    if rows <= 256 or dtype.itemsize > 2:
        # Tokens beside each other read the same A, and columns the same x.
        together = 2 if rows <= 128 or dtype.itemsize > 2 else 4
        return RowsTile(together, 4, min(whole, 1024), 0, 4, 1)
    return RowsTile(16, 8, 64, 8, 8, 5)


def multiplies_all(tokens: int, slots: int, a: Tensor) -> bool:
    """Whether so many tokens are multiplied with every A, whichever of them they need."""
    return tokens * slots > MOST_ROWS and a.shape[0] * a.shape[1] <= MOST_COLUMNS


def launch_project(
    x: Tensor, a: Tensor, index: Tensor, out: Tensor, tile: RowsTile | None = None
) -> None:
    """``out[t, j] = a[j] x[t]`` where ``index[t]`` names j; see `lragent.attention.project_lr`.

    Args:
        x: ``[T, d]``, rows contiguous.
        a: ``[n, W, d]``, rows contiguous.
        index: ``[>=T, S]`` int32.
        out: ``[>=T, n, W]`` contiguous; rows from T on are left alone.
        tile: use `rows_kernel` with this tile, instead of what is fastest.
    """
    tokens, (choices, columns, width) = x.shape[0], a.shape
    if not tokens or not index.shape[1]:
        return
    if tile is None and multiplies_all(tokens, index.shape[1], a):
        flat = a.to(x.dtype).reshape(choices * columns, width)
        torch.mm(x, flat.T, out=out[:tokens].view(tokens, choices * columns))
        return
    strides = (x.stride(0), a.stride(0), a.stride(1), index.stride(0))
    dtypes = (x.dtype, a.dtype, out.dtype)
    _rows(x.device, tokens, index.shape[1], a.shape, strides, dtypes, tile)(x, a, index, out)


def tokens_by_tile(most: int, slots: int, a: Tensor) -> list[int]:
    """Numbers of tokens up to ``most``, one for each kernel that so many or fewer tokens need:
    projecting these compiles all that projecting any number does."""
    found: dict[RowsTile | None, int] = {}
    for tokens in range(1, most + 1):
        _, columns, width = a.shape
        whole = multiplies_all(tokens, slots, a)
        tile = None if whole else rows_tile(tokens, slots, columns, width, a.dtype)
        found.setdefault(tile, tokens)
    return list(found.values())


@functools.lru_cache(maxsize=1024)
def _rows(
    device: torch.device,
    tokens: int,
    slots: int,
    shape: tuple[int, int, int],
    strides: tuple[int, ...],
    dtypes: tuple[torch.dtype, ...],
    tile: RowsTile | None,
) -> Callable[[Tensor, Tensor, Tensor, Tensor], None]:
    """Launches `rows_kernel` for tensors that are laid out like this: every layer has the same."""
    choices, columns, width = shape
    tile = tile or rows_tile(tokens, slots, columns, width, dtypes[0])
    launch = launch_of(
        rows_kernel, device, (strides, dtypes), CHOICES=choices, WIDTH=columns, D=width,
        BLOCK_T=tile.block_t, BLOCK_W=tile.block_w, BLOCK_D=tile.block_d, SHARES=tile.shares,
        num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip
    grid = (triton.cdiv(tokens, tile.block_t), slots, triton.cdiv(columns, tile.block_w))

    def project(x: Tensor, a: Tensor, index: Tensor, out: Tensor) -> None:
        launch(grid, (out, x, a, index), (tokens, *strides))

    return project
