"""Launches for long prompts: adapter terms are written out first, then attention is dense."""

# kernel[grid](...) is Triton's way to launch; a type checker sees a plain function.
# pyright: reportIndexIssue=false, reportCallIssue=false

from __future__ import annotations

import math
from collections.abc import Callable

import triton
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from lragent.attention.gpu.kernels.dense import dense_kernel
from lragent.attention.gpu.kernels.expand import expand_kernel
from lragent.attention.gpu.launch import head_block, rank_block
from lragent.attention.gpu.layer import Layer, Sequences, present
from lragent.attention.gpu.relaunch import launch_of
from lragent.attention.gpu.tiles import Tile, attention_tile, multiprocessors

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
    tokens, kv_heads, width = k_out.shape
    count = cu_seqlens_k.shape[0] - 1
    lr, v_b, k_b, cos, _ = present(layer)
    v_rank, k_rank = layer.v_rank, layer.k_rank
    align = math.gcd(16, *lr.stride()[:3])
    strides = (
        *layer.k.stride()[:3], *layer.v.stride()[:3], *(step // align for step in lr.stride()[:3]),
        *v_b.stride()[:2], *k_b.stride()[:2], cos.stride(0),
    )  # fmt: skip
    dtypes = (k_out.dtype, layer.k.dtype, lr.dtype, v_b.dtype, k_b.dtype, cos.dtype)
    launch = launch_of(
        expand_kernel, k_out.device, (strides, dtypes),
        KV_HEADS=kv_heads, D=width, BLOCK_D=triton.next_power_of_2(width), BLOCK_N=_TOKENS,
        PAGE=layer.v.shape[2],
        V_RANK=v_rank, BLOCK_VR=min(rank_block(v_rank), 64 if k_out.dtype.itemsize == 2 else 16),
        K_RANK=k_rank, BLOCK_KR=min(rank_block(k_rank), 64), ALIGN_Z=align, num_warps=_WARPS,
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
    block_d = head_block(width, 0)
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
