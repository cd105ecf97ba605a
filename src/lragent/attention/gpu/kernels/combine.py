"""Adding up the shares of a split context, which `attend_kernel` has left.

Each share is a normalised result and the base-2 logarithm of its sum; they are added in a fixed
order, so results repeat bit by bit.
"""

from __future__ import annotations

import triton
import triton.language as tl

from lragent.attention.gpu.kernels.common import FILTER, PARTS, find_row


@triton.jit(do_not_specialize=FILTER, do_not_specialize_on_alignment=PARTS)
def combine_kernel(
    out_ptr,
    partial_ptr,
    lse_ptr,
    starts_ptr,
    num_sequences,
    splits,
    min_query,
    max_query,
    stride_ot,
    stride_oh,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_S: tl.constexpr,
    DECODE: tl.constexpr,
    PDL: tl.constexpr,
):
    """Add the shares of each row: grid (rows, query heads), one program each."""
    if PDL:
        tl.extra.cuda.gdc_wait()
    if DECODE:
        sequence = tl.program_id(0)
        row = tl.load(starts_ptr + sequence)
    else:
        row = tl.program_id(0)
        sequence = find_row(starts_ptr, row, num_sequences)
        if sequence < 0:
            return
    queries = tl.load(starts_ptr + sequence + 1) - tl.load(starts_ptr + sequence)
    inside = row < tl.load(starts_ptr + num_sequences)
    if (queries < min_query) | (queries > max_query) | (not inside):
        return
    head = tl.program_id(1)
    offs_s = tl.arange(0, BLOCK_S)
    offs_d = tl.arange(0, BLOCK_D)
    line = tl.program_id(0).to(tl.int64)
    place = (line * tl.num_programs(1) + head) * splits
    lse = tl.load(lse_ptr + place + offs_s, mask=offs_s < splits, other=float("-inf"))
    weight = tl.exp2(lse - tl.max(lse, 0))
    keep = (weight > 0)[:, None] & (offs_d < D)[None, :]
    ptrs = partial_ptr + (place + offs_s)[:, None] * D + offs_d[None, :]
    parts = tl.load(ptrs, mask=keep, other=0.0)
    result = tl.sum(parts * weight[:, None], 0) / tl.sum(weight, 0)
    out = out_ptr + row.to(tl.int64) * stride_ot + head * stride_oh + offs_d
    tl.store(out, result.to(out_ptr.dtype.element_ty), mask=offs_d < D)
