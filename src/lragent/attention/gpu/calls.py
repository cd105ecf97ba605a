"""What a batch launches in every layer, worked out once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lragent.attention.gpu import fa3
from lragent.attention.gpu.launch import prepare_attend
from lragent.attention.gpu.layer import Layer, Sequences
from lragent.attention.gpu.plan import Run
from lragent.attention.gpu.prefill import launch_dense, prepare_expand
from lragent.attention.gpu.workspace import buffer

ALL = 2**31 - 1
"""More queries than any sequence has."""

Call = Callable[[Tensor, Tensor, Layer], None]
"""Attention of one layer: queries, result, layer."""


class PlannedRun(NamedTuple):
    """A run and its part of the batch's tensors.

    Attributes:
        run: which sequences, by which kernel.
        cu_seqlens_q: of its sequences.
        sequences: block tables, lengths, adapters and LR slots of its sequences.
        cu_seqlens_k: for the expand path, where each context starts in the scratch buffer.
        work: for the expand path, FlashAttention 3's work list, where it takes one.
    """

    run: Run
    cu_seqlens_q: Tensor
    sequences: Sequences
    cu_seqlens_k: Tensor | None
    work: Tensor | None

    @property
    def queries(self) -> tuple[int, int]:
        """Fewest and most queries of the sequences that the paged kernel serves."""
        decode = self.run.path == "decode"
        return 1 if decode or self.run.max_query == ALL else 2, 1 if decode else ALL


def scratch(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The shared buffer for expanded K and V; see `workspace.buffer`."""
    return buffer("expanded", size, dtype, device)


def prepare(
    runs: Sequence[PlannedRun], q: Tensor, out: Tensor, layer: Layer, scale: float, window: int
) -> list[Call]:
    """The calls of a batch's runs, for layers that are laid out like this one.

    Args:
        runs: of the batch.
        q: ``[T, Hq, D]``, rows contiguous.
        out: ``[T, Hq, D]``, rows contiguous.
        layer: a layer.
        scale: softmax scale.
        window: tokens that a query sees, 0 for all.
    """
    calls: list[Call] = []
    for planned in runs:
        if planned.run.path == "expand":
            calls.append(_expanded(planned, q, layer, scale, window))
            continue
        call = prepare_attend(
            q, out, planned.cu_seqlens_q, layer, planned.sequences, scale, window,
            planned.run.max_seq, planned.run.path == "decode", *planned.queries,
        )  # fmt: skip
        if call is not None:
            calls.append(call)
    return calls


def _expanded(planned: PlannedRun, q: Tensor, layer: Layer, scale: float, window: int) -> Call:
    """Attention that gathers the contexts first, by FlashAttention 3 or where it is not, ours."""
    run, cu_seqlens_q, sequences, cu_seqlens_k, work = planned
    assert cu_seqlens_k is not None, "made for this path"
    heads, width = layer.k.shape[1], layer.k.shape[3]
    both = scratch(2 * run.context * heads * width, q.dtype, q.device)
    k, v = both.view(2, run.context, heads, width)
    expand = prepare_expand(k, v, cu_seqlens_k, layer, sequences)
    found = fa3.find(q.device)

    def call(q: Tensor, out: Tensor, layer: Layer) -> None:
        expand(layer)
        if found is None:
            launch_dense(q, out, k, v, cu_seqlens_q, cu_seqlens_k, scale, window)
        else:
            fa3.attend(
                found, q, k, v, out, cu_seqlens_q, cu_seqlens_k, run.max_query, run.max_seq,
                scale, window, work,
            )  # fmt: skip

    return call
