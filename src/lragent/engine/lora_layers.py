"""Linear layers that apply each token's own adapter, and that keep K and V free of it."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from lragent.attention import project_lr
from lragent.engine.packed_linear import PackedLinear
from lragent.engine.step_context import StepContext


class LoraLinear(nn.Module):
    """`y = x W + s (x A) B` with another A and B for each token of a packed batch.

    The A of all loaded adapters lie side by side in one matrix, so do the B; a mask over the ranks
    picks each token's own. Two matrix products serve any mix of adapters, without a loop.

    `a`: `[R, d_in]`, `b`: `[R, d_out]` with the scaling folded in; None while no adapter targets
    this layer.
    """

    def __init__(self, base: nn.Linear | PackedLinear, context: StepContext):
        super().__init__()
        self.base = base
        self.context = context
        self.a: Tensor | None = None
        self.b: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """`x`: `[1, T, d_in]`; returns `[1, T, d_out]`."""
        return self._add_lora(x, self.base(x), self.context.step.lora_mask)

    def _add_lora(self, x: Tensor, out: Tensor, mask: Tensor | None) -> Tensor:
        if self.a is None or self.b is None or mask is None:
            return out
        ranks = torch.mul(x[0] @ self.a.T, mask)
        return torch.addmm(out[0], ranks, self.b).unsqueeze(0)


class CachedLinear(LoraLinear):
    """`k_proj` or `v_proj`: the output is the base part alone, the low-rank part is kept in `z`.

    `z`: `[T, F, rank]` of the last forward pass, until the cache write takes it; None when no
    token's is written. `slot_a`: `[n, rank, d_in]`, the distinct A of the loaded adapters.

    Tokens whose base part is cached already skip the projection (LRAgent, BaseShared). The
    adapter's term is folded in where the cache holds full values (see `Step.fold_mask`).
    """

    def __init__(
        self,
        base: nn.Linear | PackedLinear,
        context: StepContext,
        kind: Literal["k", "v"],
        layer: int,
    ):
        super().__init__(base, context)
        self.kind: Literal["k", "v"] = kind
        self.layer = layer
        self.z: Tensor | None = None
        self.slot_a: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """`x`: `[1, T, d_in]`; returns `[1, T, d_out]`, zeros in rows that are cached already."""
        step = self.context.step
        self.z = None
        if self.slot_a is not None and step.lr_rows.shape[1]:
            self.z = project_lr(x[0], self.slot_a, step.lr_rows)
        if step.base_rows is None:
            return self._add_lora(x, self.base(x), step.fold_mask)
        out = x.new_zeros(1, x.shape[1], self.base.out_features)
        if step.base_rows.numel():
            out[0, step.base_rows] = self.base(x[0, step.base_rows])
        return self._add_lora(x, out, step.fold_mask)

    def take_z(self) -> Tensor | None:
        """Hand `z` over."""
        z, self.z = self.z, None
        return z
