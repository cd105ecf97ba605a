"""Flash-LoRA-Attention in plain torch, for CPUs (it runs on any device).

One sequence after the other, so a sequence's result does not depend on its neighbours.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lragent.attention.base import AttentionBatch, KeyRotation, LoraTables, PageViews
from lragent.attention.reference import rotate

QUERY_TILE = 64


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
    out = torch.empty_like(q) if out is None else out
    for sequence in range(batch.num_sequences):
        first, last = batch.host_cu_seqlens_q[sequence : sequence + 2]
        if first < last:
            _attend(
                q[first:last], pages, batch, tables, sequence, scale, sliding_window, rotation,
                out[first:last],
            )  # fmt: skip
    return out


def _attend(
    q: Tensor,
    pages: PageViews,
    batch: AttentionBatch,
    tables: LoraTables,
    sequence: int,
    scale: float,
    window: int | None,
    rotation: KeyRotation | None,
    out: Tensor,
) -> None:
    new, heads, width = q.shape
    kv_heads, size = pages.kv_heads, pages.page_size
    group = heads // kv_heads
    tokens = batch.host_seq_lens[sequence]
    count = -(-tokens // size)
    ids = torch.tensor(batch.host_block_tables[sequence][:count], device=q.device)
    k = pages.k[ids].transpose(0, 1).reshape(kv_heads, count * size, width)[:, :tokens].float()
    v = pages.v[ids].transpose(0, 1).reshape(kv_heads, count * size, width)[:, :tokens].float()
    z = b = None
    if pages.lr is not None and batch.uses_lora(sequence):
        adapter, slot = batch.host_adapter_index[sequence], batch.host_lr_slot[sequence]
        rows = pages.lr[ids, :, slot].reshape(count * size, -1)[:tokens].float()
        v_rank, k_rank = tables.v_rank, tables.k_rank
        if tables.k_b is not None and rotation is not None:
            term = rows[:, v_rank : v_rank + k_rank] @ tables.k_b[adapter].float()
            term = term.view(tokens, kv_heads, width).transpose(0, 1)
            k = k + rotate(term, rotation.cos[:tokens], rotation.sin[:tokens])
        if tables.v_b is not None:
            z = rows[:, :v_rank]
            b = tables.v_b[adapter].float().view(v_rank, kv_heads, width).transpose(0, 1)
    for start in range(0, new, QUERY_TILE):
        stop = min(start + QUERY_TILE, new)
        top = tokens - new + stop
        low = 0 if window is None else max(0, tokens - new + start - window + 1)
        tile = q[start:stop].float().view(stop - start, kv_heads, group, width)
        tile = tile.permute(1, 2, 0, 3).reshape(kv_heads, -1, width) * scale
        scores = torch.bmm(tile, k[:, low:top].transpose(1, 2))
        grid = scores.view(kv_heads, group, stop - start, top - low)
        position = torch.arange(tokens - new + start, top, device=q.device)[:, None]
        key = torch.arange(low, top, device=q.device)
        hidden = key > position
        if window is not None:
            hidden |= key <= position - window
        p = grid.masked_fill_(hidden, float("-inf")).softmax(-1).view_as(scores)
        result = torch.bmm(p, v[:, low:top])
        if z is not None and b is not None:
            result.baddbmm_(p @ z[low:top], b)
        result = result.view(kv_heads, group, stop - start, width).permute(2, 0, 1, 3)
        out[start:stop] = result.reshape(stop - start, heads, width)
