"""Tile sizes by architecture and shape, from a table; nothing is tuned while serving.

The table ``tables/<architecture>.json`` is written by ``python -m lragent.attention.triton.tune``.
A shape that it does not hold gets a size that fits in shared memory.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from importlib import resources

import torch


@dataclass(frozen=True)
class Tile:
    """How one kernel is launched.

    Attributes:
        block_m: rows (queries times grouped heads) of a program.
        block_n: tokens of context in one step.
        warps: warps of a program.
        stages: depth of software pipelining.
        resident: programs that one multiprocessor holds at a time, for the choice of splits.
    """

    block_m: int
    block_n: int
    warps: int
    stages: int
    resident: int = 2


def tile_key(kind: str, dtype: torch.dtype, head_dim: int, lr_rank: int, key_lora: bool) -> str:
    """Name of a shape in the tables; ``kind`` is "decode", "few" or "many"."""
    width = 1 << max(head_dim - 1, 15).bit_length()
    rank = 0 if not lr_rank else 1 << max(lr_rank - 1, 15).bit_length()
    name = f"{kind}-b{dtype.itemsize * 8}-d{width}-r{rank}"
    return name + ("-key" if key_lora else "")


@functools.cache
def architecture(device: torch.device) -> str:
    """Name of the device's table, such as "sm90"; "interpreter" without a GPU."""
    if device.type != "cuda":
        return "interpreter"
    major, minor = torch.cuda.get_device_capability(device)
    return f"sm{major}{minor}"


@functools.cache
def multiprocessors(device: torch.device) -> int:
    """Multiprocessors of the device; a small number stands in without a GPU."""
    if device.type != "cuda":
        return 4
    return torch.cuda.get_device_properties(device).multi_processor_count


@functools.cache
def load_table(name: str) -> dict[str, Tile]:
    """The tuned tiles of an architecture; empty when it was never tuned."""
    path = resources.files(__package__) / "tables" / f"{name}.json"
    if not path.is_file():
        return {}
    entries = json.loads(path.read_text())["tiles"]
    return {key: Tile(**values) for key, values in entries.items()}


def attention_tile(
    kind: str,
    device: torch.device,
    dtype: torch.dtype,
    head_dim: int,
    group: int,
    v_rank: int,
    k_rank: int,
) -> Tile:
    """The tile for a shape: tuned if the table holds it, else by `fitting_tile`."""
    table = load_table(architecture(device))
    rank = v_rank if v_rank else k_rank
    tile = table.get(tile_key(kind, dtype, head_dim, rank, k_rank > 0))
    tile = tile or fitting_tile(kind, dtype, head_dim, v_rank, k_rank)
    rows = max(16, 1 << (group - 1).bit_length())
    if kind == "decode" or rows > tile.block_m:
        return Tile(rows, tile.block_n, tile.warps, tile.stages, tile.resident)
    return tile


def fitting_tile(kind: str, dtype: torch.dtype, head_dim: int, v_rank: int, k_rank: int) -> Tile:
    """A tile that keeps within the shared memory and registers of any supported GPU."""
    width = 1 << max(head_dim - 1, 15).bit_length()
    token = (2 * width + v_rank + k_rank) * dtype.itemsize
    if kind == "decode":
        block_n = 32 if token * 32 * 2 <= 96 * 1024 else 16
        return Tile(16, block_n, 4 if width > 128 else 2, 2, 2)
    wide = width > 128 or v_rank + k_rank > 128 or dtype.itemsize > 2
    rows = 64 if wide or kind == "few" else 128
    block_n = 64 if token * 64 * 2 <= 96 * 1024 else 32 if token * 32 * 2 <= 96 * 1024 else 16
    return Tile(rows, block_n, 4 if rows == 64 else 8, 2, 1)


def expand_chunk(rank: int, head_dim: int, dtype: torch.dtype) -> int:
    """Rows of B that the epilogue multiplies at a time, at most 32 KiB of them."""
    width = 1 << max(head_dim - 1, 15).bit_length()
    block = 1 << max(rank - 1, 15).bit_length()
    return max(16, min(block, 32 * 1024 // (width * dtype.itemsize)))


def choose_splits(programs: int, context: int, tile: Tile, sms: int, *, most: int = 32) -> int:
    """Into how many shares each context is divided, so that the device is evenly filled.

    The time of a choice is modelled as full rounds of resident programs times the tokens of a share,
    plus a fixed cost a program and, with more than one share, that of adding them up; tokens are the
    unit. The number depends on capacities only, never on the lengths in device memory.
    """
    slots = sms * tile.resident
    best, best_cost = 1, float("inf")
    for splits in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64):
        if splits > most or (splits > 1 and (splits - 1) * tile.block_n * 2 >= context):
            break
        rounds = -(-programs * splits // slots)
        share = -(-context // (splits * tile.block_n)) * tile.block_n
        # A round that does not fill the device runs faster than a full one, but not in proportion.
        fill = min(1.0, programs * splits / slots)
        cost = rounds * (share * max(fill, 0.35) + 96) + (160 + 4 * splits if splits > 1 else 0)
        if cost < best_cost:
            best, best_cost = splits, cost
    return best
