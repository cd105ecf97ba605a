"""Launches of the LR projection: the tile that fits, and the kernel that it is for."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from lragent.attention.triton.launch import has_pdl, interpreting
from lragent.attention.triton.project import add_kernel, rows_kernel, tiles_kernel
from lragent.attention.triton.relaunch import launch_of
from lragent.attention.triton.tiles import architecture, multiprocessors
from lragent.attention.triton.tiles_project import (
    BOX,
    TMA_TOKENS,
    ClusterTile,
    ProjectionTile,
    ProjectTile,
    RowsTile,
    TmaTile,
    project_tile,
)
from lragent.attention.triton.workspace import buffer

GLUON_TRIED = ("3.6", "3.7")
"""Versions of Triton with which `cluster_kernel` and `cluster_tma_kernel` were tried: what they are
written in may change."""


@functools.cache
def has_clusters(device: torch.device) -> bool:
    """Whether the kernels by clusters run: blocks reach each other's shared memory on Hopper."""
    tried = ".".join(triton.__version__.split(".")[:2]) in GLUON_TRIED
    return tried and architecture(device) == "sm90" and not interpreting()


class _Layout(NamedTuple):
    """The tensors of a projection, but for their addresses and the number of tokens.

    Attributes:
        device: of all.
        slots: that each token fills.
        columns: of a slot.
        width: hidden dimensions.
        choices: how many A there are.
        strides: of x's tokens, of A and its columns, and of the index's tokens.
        dtypes: of x, A and the result.
        aligned: whether x and A begin at a multiple of 16 bytes.
    """

    device: torch.device
    slots: int
    columns: int
    width: int
    choices: int
    strides: tuple[int, int, int, int]
    dtypes: tuple[torch.dtype, torch.dtype, torch.dtype]
    aligned: bool

    @property
    def in_16_bits(self) -> bool:
        """Whether the matrix unit takes x and A as they are, two bytes each."""
        return self.dtypes[0] == self.dtypes[1] and self.dtypes[0].itemsize == 2

    @property
    def has_maps(self) -> bool:
        """Whether tensor maps describe x and A: rows at multiples of 16 bytes, A one matrix."""
        x, each, column, _ = self.strides
        rows = (x % 8, column % 8, each - self.columns * column) == (0, 0, 0)
        return self.in_16_bits and self.aligned and rows

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

    Raises:
        ValueError: this device or layout has no such ``tile``.
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
    choices, columns, width = a.shape
    return _Layout(
        x.device, index.shape[1], columns, width, choices,
        (x.stride(0), a.stride(0), a.stride(1), index.stride(0)), (x.dtype, a.dtype, out.dtype),
        (x.data_ptr() | a.data_ptr()) % 16 == 0,
    )  # fmt: skip


def _tile_of(layout: _Layout, tokens: int) -> ProjectionTile:
    """The fastest, by the rule."""
    clusters = has_clusters(layout.device) and layout.in_16_bits
    return project_tile(
        tokens, layout.slots, layout.columns, layout.width, layout.dtypes[0],
        multiprocessors(layout.device), clusters=clusters, maps=clusters and layout.has_maps,
    )  # fmt: skip


@functools.lru_cache(maxsize=1024)
def _projection(layout: _Layout, tokens: int, tile: ProjectionTile | None) -> _Project:
    """What `launch_project` does for tensors of this layout: every layer has the same."""
    tile = tile or _tile_of(layout, tokens)
    if isinstance(tile, TmaTile):
        return _by_copies(layout, tokens, tile)
    if isinstance(tile, ClusterTile):
        return _by_clusters(layout, tokens, tile)
    if isinstance(tile, RowsTile):
        return _by_rows(layout, tokens, tile)
    return _by_tiles(layout, tokens, tile)


def _by_copies(layout: _Layout, tokens: int, tile: TmaTile) -> _Project:
    """Columns of several slots a cluster, operands by tensor copies."""
    _need_clusters(layout, tile, tile.fits(layout.slots, layout.columns, layout.width))
    if not layout.has_maps:
        raise ValueError(
            f"{tile} needs x and A that begin, and whose rows begin, at multiples of 16 bytes, and "
            "A without gaps"
        )
    # Gluon is looked for only where it is used.
    from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

    from lragent.attention.triton.cluster_tma import box_layout, cluster_tma_kernel

    boxes: Any = box_layout
    in_boxes = boxes(tile.cluster)
    # Checked once, for a tensor that stands for all that are laid out alike.
    some = torch.empty(0, dtype=layout.dtypes[0])
    x_stride, _, a_stride, index_stride = layout.strides
    x_shape, a_shape = [tokens, layout.width], [layout.choices * layout.columns, layout.width]
    of_slot = min(layout.columns, tile.block_c)
    x_like = TensorDescriptor(some, x_shape, [x_stride, 1], [TMA_TOKENS, BOX], in_boxes)
    a_like = TensorDescriptor(some, a_shape, [a_stride, 1], [of_slot, BOX], in_boxes)
    launch = launch_of(
        cluster_tma_kernel, layout.device, (layout.strides, layout.dtypes), **layout.constants,
        BLOCK_C=tile.block_c, STAGES=tile.stages(layout.width), PIECES=tile.pieces(layout.width),
        num_ctas=tile.cluster, num_warps=tile.warps,
    )  # fmt: skip
    across = layout.slots * layout.columns // tile.block_c
    grid = (triton.cdiv(tokens, TMA_TOKENS), across, 1)

    def map_of(like: TensorDescriptor, tensor: Tensor) -> TensorDescriptor:
        found = TensorDescriptor.__new__(TensorDescriptor)
        found.__dict__.update(like.__dict__, base=tensor)
        return found

    def project(x: Tensor, a: Tensor, index: Tensor, out: Tensor) -> None:
        maps = map_of(x_like, x), map_of(a_like, a)
        launch(grid, (out, index), (*maps, tokens, index_stride))

    return project


def _by_clusters(layout: _Layout, tokens: int, tile: ClusterTile) -> _Project:
    """A tile of tokens and columns of one slot a cluster."""
    _need_clusters(layout, tile, tile.fits(layout.columns, layout.width))
    # Gluon is looked for only where it is used.
    from lragent.attention.triton.cluster import cluster_kernel

    launch = launch_of(
        cluster_kernel, layout.device, (layout.strides, layout.dtypes), **layout.constants,
        BLOCK_T=tile.block_t, BLOCK_C=tile.block_c, BLOCK_D=tile.block_d(layout.width),
        num_ctas=tile.cluster, num_warps=tile.warps,
    )  # fmt: skip
    across = layout.slots * layout.columns // tile.block_c
    grid = (triton.cdiv(tokens, tile.block_t), across, 1)

    def project(x: Tensor, a: Tensor, index: Tensor, out: Tensor) -> None:
        launch(grid, (out, x, a, index), (tokens, *layout.strides))

    return project


def _need_clusters(layout: _Layout, tile: ClusterTile | TmaTile, fits: bool) -> None:
    if not has_clusters(layout.device):
        raise ValueError(f"{tile} needs a Hopper GPU, and Triton {' or '.join(GLUON_TRIED)}")
    if not fits or not layout.in_16_bits:
        raise ValueError(
            f"{tile} does not fit {layout.slots} x {layout.columns} columns, {layout.width} wide, "
            f"of {layout.dtypes[:2]}"
        )


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
