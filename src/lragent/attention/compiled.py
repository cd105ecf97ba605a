"""Attention inside of torch.compile: one operator that the graph compiler does not look into.

A compiled graph outlives a batch, so the operator is given a name and finds there what a step sets,
as vLLM's attention does. Projection and cache write belong to it: the compiler cannot see that
attention reads what they write, and would be free to put them in another order.
"""

from __future__ import annotations

import itertools
import weakref
from dataclasses import dataclass

import torch
from torch import Tensor

from lragent.attention.base import AttentionBatch, KeyRotation, LoraTables, PageViews
from lragent.attention.registry import (
    Implementation,
    flash_lora_attention,
    project_lr,
    write_pages,
)


@dataclass
class Step:
    """What one step of a model changes, for all layers; see `write_pages` and `project_lr`."""

    batch: AttentionBatch
    slot_mapping: Tensor
    write_base: Tensor
    lr_rows: Tensor
    lr_slots: Tensor


class CompiledAttention:
    """Projection, cache write and attention of one layer as a single node of a compiled graph.

    Set `step` before each forward pass. Arguments are those of `flash_lora_attention`, and:

    Args:
        a: ``[n, W, d]`` down-projections, or None to write no LR rows.
    """

    def __init__(
        self,
        pages: PageViews,
        tables: LoraTables,
        a: Tensor | None,
        *,
        scale: float,
        sliding_window: int | None = None,
        rotation: KeyRotation | None = None,
        implementation: Implementation = "auto",
    ):
        self.pages, self.tables, self.a, self.rotation = pages, tables, a, rotation
        self.scale, self.sliding_window = scale, sliding_window
        self.implementation: Implementation = implementation
        self.step: Step | None = None
        self.name = f"attention {next(_numbers)}"
        _layers[self.name] = self

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, x: Tensor) -> Tensor:
        """Attention of ``q [T, Hq, D]`` after writing ``k``, ``v [T, Hk, D]`` and ``x A``.

        ``x [T, d]`` are the hidden states that entered k_proj and v_proj.

        Raises:
            RuntimeError: no step is set.
        """
        return torch.ops.lragent.attend(q, k, v, x, self.name)


_numbers = itertools.count()
_layers: weakref.WeakValueDictionary[str, CompiledAttention] = weakref.WeakValueDictionary()


@torch.library.custom_op("lragent::attend", mutates_args=())
def _attend(q: Tensor, k: Tensor, v: Tensor, x: Tensor, name: str) -> Tensor:
    layer = _layers[name]
    step, how = layer.step, layer.implementation
    if step is None:
        raise RuntimeError("set CompiledAttention.step before the forward pass")
    lr = None if layer.a is None else project_lr(x, layer.a, step.lr_rows, how)
    write_pages(
        k, v, lr, layer.pages, step.slot_mapping, step.write_base, step.lr_rows, step.lr_slots, how
    )
    return flash_lora_attention(
        q, layer.pages, step.batch, layer.tables, scale=layer.scale,
        sliding_window=layer.sliding_window, rotation=layer.rotation, implementation=how,
        out=torch.empty_like(q, memory_format=torch.contiguous_format),
    )  # fmt: skip


@_attend.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, x: Tensor, name: str) -> Tensor:
    return torch.empty_like(q, memory_format=torch.contiguous_format)
