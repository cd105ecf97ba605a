"""Launches of the LR projection: the tile that fits, and the kernel that it is for."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import torch
import triton
from torch import Tensor

from lragent.attention.triton.launch import has_pdl
from lragent.attention.triton.project import add_kernel, rows_kernel, tiles_kernel
from lragent.attention.triton.relaunch import launch_of
from lragent.attention.triton.tiles import multiprocessors
from lragent.attention.triton.tiles_project import (
    ProjectionTile,
    ProjectTile,
    RowsTile,
    project_tile,
)
from lragent.attention.triton.workspace import buffer


class _Layout(NamedTuple):
    """The tensors of a projection, but for their addresses and the number of tokens.

    Attributes:
        device: of all.
        slots: that each token fills.
        columns: of a slot.
        width: hidden dimensions.
        strides: of x's tokens, of A and its columns, and of the index's tokens.
        dtypes: of x, A and the result.
    """

    device: torch.device
    slots: int
    columns: int
    width: int
    strides: tuple[int, int, int, int]
    dtypes: tuple[torch.dtype, torch.dtype, torch.dtype]

    @property
    def constants(self) -> dict[str, int]:
        """What every kernel of the projection has compiled in."""
        return {"SLOTS": self.slots, "WIDTH": self.columns, "D": self.width}


_Project = Callable[[Tensor, Tensor, Tensor, Tensor], None]


def launch_project(
    x: Tensor, a: Tensor, index: Tensor, out: Tensor, tile: ProjectionTile | None = None
) -> None:
    """``out[t, s] = a[index[t, s]] x[t]``, zeros for -1; see `lragent.attention.project_lr`.

    ``index`` and ``out`` may have more rows than ``x``, which are not looked at.
    """
    if x.shape[0] and index.shape[1]:
        _projection(_layout_of(x, a, index, out), x.shape[0], tile)(x, a, index, out)


def tokens_by_tile(x: Tensor, a: Tensor, index: Tensor, out: Tensor) -> list[int]:
    """Numbers of x's first tokens, one for each tile that as many or fewer of them get: projecting
    these compiles all that projecting any number does."""
    layout, found = _layout_of(x, a, index, out), {}
    for tokens in range(1, x.shape[0] + 1):
        found.setdefault(_tile_of(layout, tokens), tokens)
    return list(found.values())


def _layout_of(x: Tensor, a: Tensor, index: Tensor, out: Tensor) -> _Layout:
    _, columns, width = a.shape
    return _Layout(
        x.device, index.shape[1], columns, width,
        (x.stride(0), a.stride(0), a.stride(1), index.stride(0)), (x.dtype, a.dtype, out.dtype),
    )  # fmt: skip


def _tile_of(layout: _Layout, tokens: int) -> ProjectionTile:
    """The fastest, by the rule."""
    return project_tile(
        tokens, layout.slots, layout.columns, layout.width, layout.dtypes[0],
        multiprocessors(layout.device),
    )  # fmt: skip


@functools.lru_cache(maxsize=1024)
def _projection(layout: _Layout, tokens: int, tile: ProjectionTile | None) -> _Project:
    """What `launch_project` does for tensors of this layout: every layer has the same."""
    tile = tile or _tile_of(layout, tokens)
    if isinstance(tile, RowsTile):
        return _by_rows(layout, tokens, tile)
    return _by_tiles(layout, tokens, tile)


def _by_rows(layout: _Layout, tokens: int, tile: RowsTile) -> _Project:
    """A few tokens and columns of one slot a program."""
    launch = launch_of(
        rows_kernel, layout.device, (layout.strides, layout.dtypes), **layout.constants,
        BLOCK_T=tile.block_t, BLOCK_W=tile.block_w, BLOCK_D=tile.block_d, SHARES=tile.shares,
        num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip
    across = triton.cdiv(layout.columns, tile.block_w)
    grid = (triton.cdiv(tokens, tile.block_t), layout.slots, across)

    def project(x: Tensor, a: Tensor, index: Tensor, out: Tensor) -> None:
        launch(grid, (out, x, a, index), (tokens, *layout.strides))

    return project


def _by_tiles(layout: _Layout, tokens: int, tile: ProjectTile) -> _Project:
    """Tiles of all slots, and the sum of their shares."""
    device, splits = layout.device, tile.splits
    pdl = {"launch_pdl": True} if has_pdl(device) else {}
    add = launch_of(
        add_kernel, device, layout.dtypes,
        SPLITS=splits, BLOCK=512, PDL=bool(pdl), num_warps=4, **pdl,
    )  # fmt: skip
    launch = launch_of(
        tiles_kernel, device, (layout.strides, layout.dtypes, splits > 1), **layout.constants,
        BLOCK_T=tile.block_t, BLOCK_C=tile.block_c, BLOCK_D=tile.block_d,
        BLOCK_S=triton.next_power_of_2(layout.slots), EVEN=layout.width % tile.block_d == 0,
        num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip
    across = layout.slots * layout.columns
    count = tokens * across
    grid = (triton.cdiv(tokens, tile.block_t), triton.cdiv(across, tile.block_c), splits)
    add_grid = (triton.cdiv(count, 512), 1, 1)

    def project(x: Tensor, a: Tensor, index: Tensor, out: Tensor) -> None:
        parts = out if splits == 1 else buffer("project", splits * count, torch.float32, device)
        launch(grid, (parts, x, a, index), (tokens, splits, *layout.strides))
        if splits > 1:
            add(add_grid, (out, parts), (count,))

    return project
