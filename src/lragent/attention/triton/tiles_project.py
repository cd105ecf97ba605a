"""Tiles of the LR projection: how its kernels are launched, and which of them a shape gets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch


@dataclass(frozen=True)
class RowsTile:
    """How `rows_kernel` is launched for the LR projection.

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


@dataclass(frozen=True)
class ProjectTile:
    """How `tiles_kernel` is launched for the LR projection.

    Attributes:
        block_t: tokens of a program.
        block_c: columns (slots times width) of a program.
        block_d: hidden dimensions in one step.
        splits: shares of the hidden dimension, each a program's.
        warps: warps of a program.
        stages: depth of software pipelining.
    """

    block_t: int
    block_c: int
    block_d: int
    splits: int
    warps: int
    stages: int


@dataclass(frozen=True)
class ClusterTile:
    """How `cluster_kernel` is launched for the LR projection.

    Attributes:
        block_t: tokens of a cluster.
        block_c: columns of a cluster, all of one slot.
        cluster: thread blocks of a cluster, which share out the hidden dimension.
        warps: warps of a block, which share out the block's.
    """

    block_t: int
    block_c: int
    cluster: int
    warps: int

    def fits(self, columns: int, width: int) -> bool:
        """Whether a slot's columns, ``width`` hidden dimensions and the tile are shared out evenly,
        the tile in pairs over the threads of a block."""
        shares = self.cluster * self.warps
        even = columns % self.block_c == 0 and width % (16 * shares) == 0
        return even and self.block_t * self.block_c >= 64 * self.warps

    def in_one_step(self, width: int) -> bool:
        """Whether a warp's share is loaded in pieces of 16 bytes, all at once, and stays in its
        registers: 2,048 and 4,096 hidden dimensions over eight blocks of four warps."""
        return width // (self.cluster * self.warps) in (64, 128)

    def block_d(self, width: int) -> int:
        """Hidden dimensions in one step of a warp, where they are shared out evenly."""
        share = width // (self.cluster * self.warps)
        return next(size for size in (256, 128, 64, 32, 16) if share % size == 0)


BOX = 64
"""Hidden dimensions that a tensor copy brings: 128 bytes, the widest that ``wgmma`` reads."""

TMA_TOKENS = 64
"""Tokens of a cluster of `cluster_tma_kernel`: the rows of a ``wgmma``."""

COUNTERS = 128
"""Bytes for the counting barriers of `cluster_tma_kernel`."""

_SHARED = 227 * 1024
"""Bytes of shared memory that a thread block may have on Hopper."""


@dataclass(frozen=True)
class TmaTile:
    """How `cluster_tma_kernel` is launched for the LR projection.

    Attributes:
        block_c: columns (slots times width) of a cluster.
        cluster: thread blocks of a cluster, which share out the hidden dimension.
    """

    block_c: int
    cluster: int

    warps: ClassVar[int] = 4
    """Of a block: those of a ``wgmma``."""

    def fits(self, slots: int, columns: int, width: int) -> bool:
        """Whether the slots' columns and ``width`` hidden dimensions are shared out evenly, a warp
        copies each slot, and what a block reads and receives stays in its shared memory."""
        of_slot = min(columns, self.block_c)
        even = (
            width % (self.cluster * BOX) == 0 and slots * columns % self.block_c == 0
            and columns % of_slot == 0 and self.block_c % of_slot == 0 and of_slot % 8 == 0
        )  # fmt: skip
        if not even or self.block_c // of_slot > self.warps or self.boxes(width) > 32:
            return False
        shared = self.pieces(width) * TMA_TOKENS * BOX * 2
        return shared <= _SHARED and (self.stages(width) + 1) * 8 <= COUNTERS

    def pieces(self, width: int) -> int:
        """Boxes of x that take as much shared memory as all that a block reads and receives."""
        read = (TMA_TOKENS + self.block_c) * (width // self.cluster) * 2
        received = TMA_TOKENS * self.block_c * 4
        return -(-(read + COUNTERS + received) // (TMA_TOKENS * BOX * 2))

    def boxes(self, width: int) -> int:
        """Tensor copies of x that a block needs."""
        return width // (self.cluster * BOX)

    def stages(self, width: int) -> int:
        """Into how many parts a block divides what it waits for."""
        boxes = self.boxes(width)
        return boxes // 2 if boxes % 2 == 0 else boxes


ProjectionTile = RowsTile | ProjectTile | ClusterTile | TmaTile

MOST_CLUSTER_TOKENS = 256
"""Tokens up to which clusters are faster than tiles, with one slot and with eight."""

MOST_CLUSTERS = 44
"""Clusters of 32 tokens that an H100 may run at once: registers are for three blocks a
multiprocessor, and the blocks of a cluster are near each other. By their times 32 do and 48 do not
(``docs/kernels.md``)."""

FEW_TOKENS = 32
"""Tokens up to which copies are too slow: a cluster that copies takes 64."""

LEAST_COPIED = 8192
"""Results (tokens times columns of all slots) from which a cluster that copies is faster than one
that loads into registers, where its warps load their shares at once."""


def project_tile(
    tokens: int,
    slots: int,
    columns: int,
    width: int,
    dtype: torch.dtype,
    sms: int,
    clusters: bool = False,
    maps: bool = False,
) -> ProjectionTile:
    """A few tokens a program for a few; some more by ``clusters``, where the device has them, with
    tensor copies where ``maps`` describe the operands; else tiles, the hidden dimension shared out
    to fill ``sms``."""
    whole = 1 << (width - 1).bit_length()
    rows = tokens * slots * -(-columns // 16)
    if rows <= 16 or (rows <= 32 and slots > 1):
        return RowsTile(1, 1, min(whole, 4096), 0, 8, 1)
    if clusters and dtype.itemsize == 2 and tokens <= MOST_CLUSTER_TOKENS:
        clustered = _clustered_tile(tokens, slots, columns, width, maps)
        if clustered:
            return clustered
    if rows <= 32:
        return RowsTile(1, 4, min(whole, 4096), 0, 8, 1)
    if rows <= 256:
        # Tokens beside each other read the same A, and columns the same x.
        together = 2 if rows <= 128 or dtype.itemsize > 2 else 4
        return RowsTile(together, 4, min(whole, 1024), 0, 4, 1)
    if dtype.itemsize == 2 and slots > 1 and tokens <= 128:
        return RowsTile(16, 8, 64, 8, 8, 5)
    narrow = slots * columns <= 16
    block_c = min(max(16, 1 << (slots * columns - 1).bit_length()), 64 if tokens <= 2048 else 128)
    block_t = 16 if tokens <= 256 else 32 if narrow and tokens <= 1024 else 64
    block_d = 64 if dtype.itemsize > 2 else 128
    programs = -(-tokens // block_t) * -(-slots * columns // block_c)
    splits = 1
    while splits < 8 and programs * splits * 2 <= sms and splits * 2 * block_d <= width:
        splits *= 2
    return ProjectTile(block_t, block_c, block_d, splits, 4, 3)


def _clustered_tile(
    tokens: int, slots: int, columns: int, width: int, maps: bool
) -> ClusterTile | TmaTile | None:
    """By tensor copies or by loads, whichever is faster; None where neither is faster than others.

    Loads are not for every hidden dimension (`ClusterTile.in_one_step`). Where they are not, copies
    are compared with `rows_kernel`, which is slower for few tokens too if columns are many.
    """
    loads, copies = cluster_tile(tokens, slots, columns), None
    results = tokens * slots * columns
    loading = loads.fits(columns, width) and loads.in_one_step(width)
    if loading:
        copying = tokens > FEW_TOKENS and results >= LEAST_COPIED
    else:
        copying = tokens > FEW_TOKENS or results > LEAST_COPIED // 4
    if maps and copying:
        copies = tma_tile(tokens, slots, columns, width)
    return copies or (loads if loading else None)


def cluster_tile(tokens: int, slots: int, columns: int) -> ClusterTile:
    """Eight blocks a cluster and 16 tokens; 32 where that would make more blocks than an H100 runs
    at once, and where columns come in eights, as the tile would be too small to share out; 64 where
    not all clusters would run at once."""
    block_c = 16 if columns % 16 == 0 else 8
    across = slots * columns // block_c
    if block_c == 16 and -(-tokens // 16) * across < 16:
        return ClusterTile(16, block_c, 8, 4)
    at_once = -(-tokens // 32) * across <= MOST_CLUSTERS
    return ClusterTile(32 if at_once else 64, block_c, 8, 4)


def tma_tile(tokens: int, slots: int, columns: int, width: int) -> TmaTile | None:
    """The narrowest tile of which all clusters run at once, as wide ones send more between blocks;
    clusters of four blocks where those of eight would not; else the widest that fits. None where
    none does, or its clusters would come in too many waves."""
    candidates = [(TmaTile(16, 8), 12), (TmaTile(32, 8), 12)]
    if slots * columns <= 128:
        candidates.append((TmaTile(32, 4), 16))
    candidates += [(TmaTile(64, 8), 32), (TmaTile(32, 8), 32), (TmaTile(16, 8), 24)]
    for tile, most in candidates:
        clusters = -(-tokens // TMA_TOKENS) * slots * columns // tile.block_c
        if clusters <= most and tile.fits(slots, columns, width):
            return tile
    return None
