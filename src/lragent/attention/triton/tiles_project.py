"""Tiles of the LR projection: how its kernels are launched, and which of them a shape gets."""

from __future__ import annotations

from dataclasses import dataclass

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


ProjectionTile = RowsTile | ProjectTile


def project_tile(
    tokens: int,
    slots: int,
    columns: int,
    width: int,
    dtype: torch.dtype,
    sms: int,
) -> ProjectionTile:
    """A few tokens a program for a few; else tiles, the hidden dimension shared out to fill
    ``sms``."""
    whole = 1 << (width - 1).bit_length()
    rows = tokens * slots * -(-columns // 16)
    if rows <= 16 or (rows <= 32 and slots > 1):
        return RowsTile(1, 1, min(whole, 4096), 0, 8, 1)
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
