"""Tile sizes by architecture and shape, from a table; nothing is tuned while serving.

The table ``tables/<architecture>.json`` is written by ``python -m benchmarks.kernels.tune``.
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


TOKEN_ROWS = 16
"""Tokens that a warp of `decode_kernel` takes of a tile: the rows of a matrix instruction."""

NARROW = 8
"""Most query heads a KV head of `decode_kernel`: the narrow side of a matrix instruction."""


def tokens_as_rows(dtype: torch.dtype, head_dim: int, group: int, v_rank: int, k_rank: int) -> bool:
    """Whether `decode_kernel` serves decode; wider shapes would not stay in its registers.

    Args:
        dtype: of the queries.
        head_dim: width of a head.
        group: query heads a KV head.
        v_rank: value rank.
        k_rank: key rank.
    """
    fits = head_dim <= 128 and group <= NARROW and v_rank <= 64 and k_rank <= 32
    return dtype.itemsize == 2 and k_rank > 0 and fits


def tile_key(kind: str, dtype: torch.dtype, head_dim: int, lr_rank: int, key_lora: bool) -> str:
    """Name of a shape in the tables; ``kind`` is "decode", "decode-keys" where `tokens_as_rows`,
    "few", "many", "dense" or "dense-few"."""
    width = 1 << max(head_dim - 1, 15).bit_length()
    rank = 0 if not lr_rank else 1 << max(lr_rank - 1, 15).bit_length()
    name = f"{kind}-b{dtype.itemsize * 8}-d{width}-r{rank}"
    return name + ("-key" if key_lora else "")


def table_kind(
    kind: str, dtype: torch.dtype, head_dim: int, group: int, v_rank: int, k_rank: int
) -> str:
    """The kind under which the tables hold a shape: decode has two kernels."""
    if kind == "decode" and tokens_as_rows(dtype, head_dim, group, v_rank, k_rank):
        return "decode-keys"
    return kind


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
    path = resources.files("lragent.attention.gpu") / "tables" / f"{name}.json"
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
    kind = table_kind(kind, dtype, head_dim, group, v_rank, k_rank)
    tile = table.get(tile_key(kind, dtype, head_dim, rank, k_rank > 0))
    tile = tile or fitting_tile(kind, dtype, head_dim, v_rank, k_rank)
    rows = max(16, 1 << (group - 1).bit_length())
    if kind == "decode" or (kind != "decode-keys" and rows > tile.block_m):
        return Tile(rows, tile.block_n, tile.warps, tile.stages, tile.resident)
    return tile


def fitting_tile(kind: str, dtype: torch.dtype, head_dim: int, v_rank: int, k_rank: int) -> Tile:
    """A tile that keeps within the shared memory and registers of any supported GPU."""
    width = 1 << max(head_dim - 1, 15).bit_length()
    lora = v_rank + k_rank
    if dtype.itemsize > 2:
        # fp32 products are unrolled to scalar arithmetic: small tiles keep the code short.
        return Tile(16 if kind == "decode" else 32, 16 if width > 128 else 32, 4, 1, 1)
    if kind == "decode-keys":
        return Tile(NARROW, TOKEN_ROWS, 1, 2, 8)
    if kind.startswith("dense"):
        return Tile(64, 64 if width <= 128 else 32, 4, 3 if width <= 128 else 2, 1)
    if kind == "decode":
        stages = 2 if width <= 128 or lora <= 64 else 1
        return Tile(16, 32, 4 if width > 128 or lora > 64 else 2, stages, 3)
    if k_rank or (width > 128 and lora > 64):
        # Below 64 rows Triton takes the older matrix instructions. With the Hopper ones, Triton 3.6
        # gave wrong results for key LoRA in some pipelinings, and wide B tables do not fit.
        return Tile(32, 32, 4, 2 if width <= 128 else 1, 2)
    rows = 64 if width > 128 or lora > 64 or kind == "few" else 128
    block_n = 64 if width <= 128 and lora <= 64 else 32
    return Tile(rows, block_n, 4 if rows == 64 else 8, 2, 2 if rows == 64 else 1)


def expand_chunk(rank: int, head_dim: int, dtype: torch.dtype) -> int:
    """Rows of B that the epilogue multiplies at a time, at most 32 KiB of them."""
    width = 1 << max(head_dim - 1, 15).bit_length()
    block = 1 << max(rank - 1, 15).bit_length()
    return max(16, min(block, 32 * 1024 // (width * dtype.itemsize)))


@functools.lru_cache(4096)
def choose_splits(programs: int, context: int, tile: Tile, sms: int, *, most: int = 64) -> int:
    """Into how many shares each context is divided, so that the device is evenly filled.

    A choice costs its full rounds of resident programs, each of them as long as a share, plus a
    constant a round and, with several shares, one for adding them up; the unit is the time of one
    token on a full device. A device that is not full works faster on each share, but not in
    proportion. The constants were fitted to decode on an H100 (``benchmarks/LOG.md``). The number
    depends on capacities only, never on the lengths in device memory.
    """
    slots = sms * tile.resident
    best, best_cost = 1, float("inf")
    for splits in range(1, most + 1):
        if splits > 1 and (splits - 1) * tile.block_n >= context:
            break
        rounds = -(-programs * splits // slots)
        share = -(-context // (splits * tile.block_n)) * tile.block_n
        fill = max(0.38, min(1.0, programs * splits / slots) ** 0.85)
        cost = rounds * (share * fill + 35) + (27 if splits > 1 else 0)
        if cost < best_cost * 0.99:
            best, best_cost = splits, cost
    return best
