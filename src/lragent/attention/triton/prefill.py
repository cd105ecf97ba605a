"""Launches for long prompts: adapter terms are written out first, then attention is dense."""

# kernel[grid](...) is Triton's way to launch; a type checker sees a plain function.
# pyright: reportIndexIssue=false, reportCallIssue=false

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import triton
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from lragent.attention.triton.dense import dense_kernel
from lragent.attention.triton.expand import expand_kernel, values_kernel
from lragent.attention.triton.launch import rank_block
from lragent.attention.triton.layer import Layer, Sequences, present
from lragent.attention.triton.relaunch import launch_of
from lragent.attention.triton.tiles import Tile, attention_tile, multiprocessors

_TOKENS, _WARPS = 32, 4
"""Of a program that writes K and V. With more tokens it needs more registers, and fewer of them run
at a time."""


def prepare_expand(
    k_out: Tensor, v_out: Tensor, cu_seqlens_k: Tensor, layer: Layer, sequences: Sequences
) -> Callable[[Layer], None]:
    """What writes the full K and V of each context, one sequence after the other.

    Args:
        k_out: ``[tokens, Hk, D]`` contiguous, at least ``cu_seqlens_k[-1]`` tokens.
        v_out: the same.
        cu_seqlens_k: ``[S+1]`` int32, sums of the context lengths.
        layer: the layer, or one laid out alike.
        sequences: the batch.

    Returns:
        Launches the kernel for a layer.
    """
    tokens, kv_heads, _ = k_out.shape
    count = cu_seqlens_k.shape[0] - 1
    lr, v_b, k_b, cos, _ = present(layer)
    constants, k_rank = _constants(layer), layer.k_rank
    strides = (
        *layer.k.stride()[:3], *layer.v.stride()[:3], *_lr_strides(lr, constants),
        *v_b.stride()[:2], *k_b.stride()[:2], cos.stride(0),
    )  # fmt: skip
    dtypes = (k_out.dtype, layer.k.dtype, lr.dtype, v_b.dtype, k_b.dtype, cos.dtype)
    launch = launch_of(
        expand_kernel, k_out.device, (strides, dtypes), **constants,
        K_RANK=k_rank, BLOCK_KR=min(rank_block(k_rank), 64),
    )  # fmt: skip
    grid = ((tokens // _TOKENS + count) * kv_heads, 1, 1)
    batch = (
        sequences.block_tables, cu_seqlens_k, sequences.adapter_index, sequences.lr_slot,
    )  # fmt: skip
    numbers = (count, *strides, sequences.block_tables.stride(0))

    def expand(layer: Layer) -> None:
        tensors = (k_out, v_out, layer.k, layer.v, *present(layer), *batch)
        launch(grid, tensors, numbers)

    return expand


def prepare_values(
    v_out: Tensor, layer: Layer, sequences: Sequences, context: int
) -> Callable[[Layer], None]:
    """What writes the full V of one sequence's context, each page at its own place.

    Rows of its last page behind the last token become zeros; other pages are left as they are.

    Args:
        v_out: ``[P, Hk, N, D]`` contiguous, a place for every page of the layer.
        layer: the layer, or one laid out alike.
        sequences: the sequence.
        context: at least its tokens.

    Returns:
        Launches the kernel for a layer.
    """
    _, kv_heads, page, _ = v_out.shape
    lr, v_b, *_ = present(layer)
    constants = _constants(layer)
    strides = (*layer.v.stride()[:3], *_lr_strides(lr, constants), *v_b.stride()[:2])
    dtypes = (v_out.dtype, layer.v.dtype, lr.dtype, v_b.dtype)
    launch = launch_of(values_kernel, v_out.device, (strides, dtypes), **constants)
    room = min(triton.cdiv(context, page), sequences.block_tables.shape[1]) * page
    grid = (triton.cdiv(room, _TOKENS) * kv_heads, 1, 1)
    numbers = (room, *strides)

    def values(layer: Layer) -> None:
        lr, v_b, *_ = present(layer)
        launch(grid, (v_out, layer.v, lr, v_b, *sequences), numbers)

    return values


def _constants(layer: Layer) -> dict[str, Any]:
    """What both kernels compile in: the pages' sizes, and how values are completed."""
    _, kv_heads, page, width = layer.v.shape
    itemsize, v_rank = layer.v.dtype.itemsize, layer.v_rank
    return {
        "KV_HEADS": kv_heads,
        "D": width,
        "BLOCK_D": triton.next_power_of_2(width),
        "BLOCK_N": _TOKENS,
        "PAGE": page,
        "V_RANK": v_rank,
        "BLOCK_VR": min(rank_block(v_rank), 64 if itemsize == 2 else 16),
        "ALIGN_Z": math.gcd(16, *present(layer)[0].stride()[:3]),
        "num_warps": _WARPS,
    }


def _lr_strides(lr: Tensor, constants: dict[str, Any]) -> tuple[int, ...]:
    return tuple(step // constants["ALIGN_Z"] for step in lr.stride()[:3])


def launch_dense(
    q: Tensor,
    out: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    scale: float,
    window: int,
    tile: Tile | None = None,
) -> None:
    """Causal attention over expanded keys; rows outside ``cu_seqlens_q`` are left as they are.

    Args:
        q: ``[T, Hq, D]``, rows contiguous.
        out: ``[T, Hq, D]``, rows contiguous.
        k: ``[tokens, Hk, D]`` contiguous, exactly the tokens of ``cu_seqlens_k``.
        v: the same.
        cu_seqlens_q: ``[S+1]`` int32.
        cu_seqlens_k: ``[S+1]`` int32.
        scale: softmax scale.
        window: tokens that a query sees, 0 for all.
        tile: instead of the table's.
    """
    rows, heads, width = q.shape
    tokens, kv_heads, _ = k.shape
    group, count = heads // kv_heads, cu_seqlens_q.shape[0] - 1
    block_d = triton.next_power_of_2(width)
    if tile is None:
        # With at most one program a multiprocessor, each must hide its own latency.
        alone = rows * group * kv_heads <= 64 * multiprocessors(q.device)
        kind = "dense-few" if alone else "dense"
        tile = attention_tile(kind, q.device, q.dtype, width, group, 0, 0)
    shape, strides = [tokens, kv_heads * width], [kv_heads * width, 1]
    k_desc, v_desc = (TensorDescriptor(x, shape, strides, [tile.block_n, block_d]) for x in (k, v))
    tiles = rows // (tile.block_m // group) + count
    dense_kernel[(tiles * kv_heads,)](
        q, out, k_desc, v_desc, cu_seqlens_q, cu_seqlens_k, count, window,
        scale * math.log2(math.e), *q.stride()[:2], *out.stride()[:2],
        KV_HEADS=kv_heads, GROUP=group, D=width, BLOCK_M=tile.block_m, BLOCK_D=block_d,
        BLOCK_N=tile.block_n, WINDOW=window > 0, num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip
