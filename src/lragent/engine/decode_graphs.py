"""Decode steps replayed from CUDA graphs.

A decode step of a small model launches hundreds of short kernels; launching them one by one takes
longer than running them. A graph is captured once for each batch capacity and context capacity and
replayed with other requests, adapters and pages, whose numbers are copied into its buffers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lragent.attention import AttentionBatch
from lragent.engine.step_context import Step

BATCH_CAPACITIES = (1, 2, 4, 8, 16, 32, 64)
SHORTEST_CONTEXT = 512
CONTEXT_GROWTH = 4


@dataclass(frozen=True)
class Widths:
    """Second dimensions of a step's buffers: LR slots written a token, ranks of all adapters."""

    fills: int
    ranks: int
    folds: bool


class DecodeGraphs:
    """Runs steps of one token a sequence. A graph is made when its capacities are first needed.

    Args:
        forward: the eager forward pass of a step; must not wait for the device.
        page_size, max_positions: bounds of the block tables.
        dtype, device: of the model.
    """

    def __init__(
        self,
        forward: Callable[[Step], Tensor],
        page_size: int,
        max_positions: int,
        dtype: torch.dtype,
        device: torch.device,
    ):
        self._forward = forward
        self._page_size = page_size
        self._max_positions = max_positions
        self._dtype = dtype
        self._device = device
        self._graphs: dict[tuple[int, int, Widths], _Graph] = {}

    def clear(self) -> None:
        """Drop all graphs, after the adapters' tensors moved."""
        self._graphs.clear()

    def run(self, step: Step, widths: Widths) -> Tensor | None:
        """Logits `[S, vocab]` of a decode step; None when the step is of another kind."""
        count = step.attention.num_sequences
        if step.attention.max_query != 1 or step.attention.num_queries != count:
            return None
        if step.logit_rows.shape[0] != count or count > BATCH_CAPACITIES[-1]:
            return None
        batch = next(c for c in BATCH_CAPACITIES if c >= count)
        context = SHORTEST_CONTEXT
        while context < step.attention.max_seq:
            context *= CONTEXT_GROWTH
        key = (batch, min(context, self._max_positions), widths)
        if key not in self._graphs:
            self._graphs[key] = self._capture(*key)
        return self._graphs[key].replay(step)

    def _capture(self, batch: int, context: int, widths: Widths) -> _Graph:
        from lragent.attention.gpu import graph_safe

        static = self._static_step(batch, context, widths)
        side = torch.cuda.Stream(self._device)
        side.wait_stream(torch.cuda.current_stream(self._device))
        with graph_safe(), torch.cuda.stream(side):
            for _ in range(2):  # compiles kernels and lets libraries set themselves up
                self._forward(static)
        torch.cuda.current_stream(self._device).wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            logits = self._forward(static)
        return _Graph(graph, static, logits)

    def _static_step(self, batch: int, context: int, widths: Widths) -> Step:
        """Buffers of a step that reads and writes nothing yet."""

        def whole(shape: tuple[int, ...], value: int, dtype: torch.dtype) -> Tensor:
            return torch.full(shape, value, dtype=dtype, device=self._device)

        pages = -(-context // self._page_size)
        starts = list(range(batch + 1))
        attention = AttentionBatch(
            block_tables=whole((batch, pages), 0, torch.int32),
            cu_seqlens_q=torch.tensor(starts, dtype=torch.int32, device=self._device),
            seq_lens=whole((batch,), 1, torch.int32),
            adapter_index=whole((batch,), -1, torch.int32),
            lr_slot=whole((batch,), -1, torch.int32),
            max_query=1,
            max_seq=context,
            host_block_tables=[[0] * pages] * batch,
            host_cu_seqlens_q=starts,
            host_seq_lens=[context] * batch,
            host_adapter_index=[-1] * batch,
            host_lr_slot=[-1] * batch,
        )
        masks = (batch, widths.ranks)
        return Step(
            input_ids=whole((1, batch), 0, torch.int64),
            positions=whole((1, batch), 0, torch.int64),
            attention=attention,
            slot_mapping=whole((batch,), -1, torch.int64),
            write_base=whole((batch,), 0, torch.bool),
            base_rows=None,  # K and V of a known token are computed too; write_base keeps its own
            lr_rows=whole((batch, widths.fills), -1, torch.int32),
            lr_slots=whole((batch, widths.fills), -1, torch.int32),
            lora_mask=whole(masks, 0, self._dtype) if widths.ranks else None,
            fold_mask=whole(masks, 0, self._dtype) if widths.folds else None,
            logit_rows=torch.arange(batch, device=self._device),
        )


class _Graph:
    """A captured step and the buffers that it reads."""

    def __init__(self, graph: torch.cuda.CUDAGraph, static: Step, logits: Tensor):
        self._graph = graph
        self._static = static
        self._logits = logits

    def replay(self, step: Step) -> Tensor:
        count = step.attention.num_sequences
        static, source = self._static, step.attention
        target = static.attention
        _put(static.input_ids[0], step.input_ids[0], 0)
        _put(static.positions[0], step.positions[0], 0)
        _put(static.slot_mapping, step.slot_mapping, -1)
        _put(static.write_base, step.write_base, 0)
        _put(static.lr_rows, step.lr_rows, -1)
        _put(static.lr_slots, step.lr_slots, -1)
        _put(static.lora_mask, step.lora_mask, 0)
        _put(static.fold_mask, step.fold_mask, 0)
        _put(target.seq_lens, source.seq_lens, 1)
        _put(target.adapter_index, source.adapter_index, -1)
        _put(target.lr_slot, source.lr_slot, -1)
        _put(target.block_tables, source.block_tables, 0)
        self._graph.replay()
        return self._logits[:count]


def _put(target: Tensor | None, source: Tensor | None, padding: int) -> None:
    """Copy `source` into the leading part of `target`, and `padding` into the rest."""
    if target is None or not target.numel():
        return
    if source is None or source.shape != target.shape:
        target.fill_(padding)
    if source is not None and source.numel():
        target[tuple(slice(size) for size in source.shape)].copy_(source)
