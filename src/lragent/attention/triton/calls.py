"""What a batch launches in every layer, worked out once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lragent.attention.triton import fa3
from lragent.attention.triton.launch import prepare_attend
from lragent.attention.triton.layer import Layer, Sequences
from lragent.attention.triton.plan import Run
from lragent.attention.triton.prefill import launch_dense, prepare_expand
from lragent.attention.triton.workspace import buffer

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
        run, starts, sequences, starts_k, work = planned
        if starts_k is not None:
            calls.append(
                expanded(
                    q, layer, sequences, starts, starts_k, run.max_query, run.max_seq, run.context,
                    scale, window, work,
                )
            )  # fmt: skip
            continue
        call = prepare_attend(
            q, out, starts, layer, sequences, scale, window, run.max_seq, run.path == "decode",
            *planned.queries,
        )  # fmt: skip
        if call is not None:
            calls.append(call)
    return calls


def expanded(
    q: Tensor,
    layer: Layer,
    sequences: Sequences,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_query: int,
    max_seq: int,
    context: int,
    scale: float,
    window: int,
    work: Tensor | None,
) -> Call:
    """Attention that gathers the contexts first: FlashAttention 3 where it is installed, or ours.

    Args:
        q: ``[T, Hq, D]``, rows contiguous, for its shape.
        layer: a layer, for its layout.
        sequences: the run's sequences.
        cu_seqlens_q: ``[S+1]`` int32.
        cu_seqlens_k: ``[S+1]`` int32, sums of the contexts' lengths.
        max_query: most queries of a sequence.
        max_seq: longest context.
        context: tokens of all contexts.
        scale: softmax scale.
        window: tokens that a query sees, 0 for all.
        work: FlashAttention 3's work list, where it takes one.
    """
    heads, width = layer.k.shape[1], layer.k.shape[3]
    both = scratch(2 * context * heads * width, q.dtype, q.device)
    k, v = both.view(2, context, heads, width)
    expand = prepare_expand(k, v, cu_seqlens_k, layer, sequences)
    found = fa3.find(q.device)

    def call(q: Tensor, out: Tensor, layer: Layer) -> None:
        expand(layer)
        if found is None:
            launch_dense(q, out, k, v, cu_seqlens_q, cu_seqlens_k, scale, window)
        else:
            fa3.attend(
                found, q, k, v, out, cu_seqlens_q, cu_seqlens_k, max_query, max_seq, scale,
                window, work,
            )  # fmt: skip

    return call
