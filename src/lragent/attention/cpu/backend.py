"""Flash-LoRA-Attention in plain torch, for CPUs (it runs on any device).

One sequence after the other, so that a sequence's result does not depend on its neighbours.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lragent.attention.backend import Backend
from lragent.attention.base import AttentionBatch, KeyRotation, LoraTables, PageViews
from lragent.attention.cpu.cache import project, write
from lragent.attention.cpu.chunk import attend
from lragent.attention.cpu.decode import Decoder
from lragent.attention.cpu.plan import plan_batch


class TorchBackend(Backend):
    """The three operations in plain torch."""

    def attend(
        self,
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
        in_fp32 = q.dtype == pages.k.dtype == torch.float32
        group = q.shape[1] // pages.kv_heads
        v_table, k_table = _by_head(tables.v_b, pages), _by_head(tables.k_b, pages)
        for plan in plan_batch(batch, pages.page_size, sliding_window):
            adapter, slot = batch.host_adapter_index[plan.index], batch.host_lr_slot[plan.index]
            v_b = v_table[adapter] if plan.lora and v_table is not None else None
            k_b = k_table[adapter] if plan.lora and k_table is not None else None
            if plan.queries == 1 and in_fp32 and k_b is None:
                key = (plan.index, sliding_window, pages.k.shape[1:], group)
                decoder = batch.once(Decoder, key, plan, pages, group)
                query = plan.first_query
                decoder(q[query], pages, slot, v_b, scale, out[query])
            else:
                span = slice(plan.first_query, plan.first_query + plan.queries)
                attend(q[span], pages, plan, slot, v_b, k_b, rotation, scale, out[span])
        return out

    def write(
        self,
        k: Tensor,
        v: Tensor,
        lr: Tensor | None,
        pages: PageViews,
        slot_mapping: Tensor,
        write_base: Tensor,
        lr_rows: Tensor,
        lr_slots: Tensor,
    ) -> None:
        """By indexed stores, or one by one for a few tokens."""
        write(k, v, lr, pages, slot_mapping, write_base, lr_rows, lr_slots)

    def project(self, x: Tensor, a: Tensor, index: Tensor) -> Tensor:
        """One matrix product for each A that occurs."""
        return project(x, a, index)


def _by_head(table: Tensor | None, pages: PageViews) -> Tensor | None:
    """An up-projection table ``[A, R, Hk*D]`` as ``[A, Hk, R, D]``."""
    if table is None:
        return None
    return table.unflatten(2, (pages.kv_heads, pages.head_dim)).transpose(1, 2)
