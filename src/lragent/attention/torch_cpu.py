"""Flash-LoRA-Attention in plain torch, for CPUs (it runs on any device).

One sequence after the other, so that a sequence's result does not depend on its neighbours.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lragent.attention.base import AttentionBatch, KeyRotation, LoraTables, PageViews
from lragent.attention.torch_chunk import attend
from lragent.attention.torch_decode import decode
from lragent.attention.torch_plan import plan_batch


def flash_lora_attention(
    q: Tensor,
    pages: PageViews,
    batch: AttentionBatch,
    tables: LoraTables,
    *,
    scale: float,
    sliding_window: int | None = None,
    rotation: KeyRotation | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """See `lragent.attention.flash_lora_attention`."""
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device) if out is None else out
    in_place = all(x.dtype == torch.float32 for x in (q, pages.k, pages.v))
    for plan in plan_batch(batch, pages.page_size, sliding_window):
        rows = slice(plan.first_query, plan.first_query + plan.queries)
        adapter, slot = batch.host_adapter_index[plan.index], batch.host_lr_slot[plan.index]
        v_b = tables.v_b[adapter] if plan.lora and tables.v_b is not None else None
        k_b = tables.k_b[adapter] if plan.lora and tables.k_b is not None else None
        if plan.queries == 1 and in_place and k_b is None:
            row = plan.first_query
            decode(q[row], pages, plan, slot, v_b, scale, out[row])
        else:
            attend(q[rows], pages, plan, slot, v_b, k_b, rotation, scale, out[rows])
    return out
