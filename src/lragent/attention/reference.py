"""Flash-LoRA-Attention as a slow loop that a reader can check against the paper.

For one query ``q`` of one head, over the cached tokens t that it may see:

    K_t = k_t + RoPE_t(z_k,t B_k)        S_t = scale * q . K_t        P = softmax(S)
    O   = P V + (P z_v) B_v

Everything is computed in float64 and returned in the caller's dtype.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lragent.attention.base import AttentionBatch, KeyRotation, LoraTables, PageViews


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
    kv_heads, group = pages.kv_heads, q.shape[1] // pages.kv_heads
    for sequence in range(batch.num_sequences):
        first, last = batch.host_cu_seqlens_q[sequence : sequence + 2]
        tokens = batch.host_seq_lens[sequence]
        keys, values, z, b = _read_sequence(pages, batch, tables, sequence, rotation)
        for row in range(first, last):
            position = tokens - last + row
            start = 0 if sliding_window is None else max(0, position - sliding_window + 1)
            seen = slice(start, position + 1)
            for head in range(kv_heads * group):
                kv_head = head // group
                scores = scale * (keys[seen, kv_head] @ q[row, head].double())
                p = torch.softmax(scores, dim=0)
                result = p @ values[seen, kv_head]
                if z is not None and b is not None:
                    result = result + (p @ z[seen]) @ b[:, kv_head]
                out[row, head] = result.to(out.dtype)
    return out


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """RoPE as in transformers: ``x cos + rotate_half(x) sin``; the last dim is the head's."""
    low, high = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-high, low), dim=-1) * sin


def _read_sequence(
    pages: PageViews,
    batch: AttentionBatch,
    tables: LoraTables,
    sequence: int,
    rotation: KeyRotation | None,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Keys ``[L, Hk, D]`` with their adapter term, base values, z_v ``[L, Rv]``, B ``[Rv, Hk, D]``.

    Token by token through the block table; z_v and B are None without value LoRA.
    """
    kv_heads, width = pages.kv_heads, pages.head_dim
    tokens = batch.host_seq_lens[sequence]
    table = batch.host_block_tables[sequence]
    places = [(table[t // pages.page_size], t % pages.page_size) for t in range(tokens)]
    if not places:
        empty = torch.empty(0, kv_heads, width, dtype=torch.float64, device=pages.k.device)
        return empty, empty, None, None
    keys = torch.stack([pages.k[page, :, row] for page, row in places]).double()
    values = torch.stack([pages.v[page, :, row] for page, row in places]).double()
    if pages.lr is None or not batch.uses_lora(sequence):
        return keys, values, None, None
    adapter, slot = batch.host_adapter_index[sequence], batch.host_lr_slot[sequence]
    lr = torch.stack([pages.lr[page, row, slot] for page, row in places]).double()
    v_rank, k_rank = tables.v_rank, tables.k_rank
    if tables.k_b is not None and rotation is not None:
        term = lr[:, v_rank : v_rank + k_rank] @ tables.k_b[adapter].double()
        cos = rotation.cos[:tokens, None].double()
        sin = rotation.sin[:tokens, None].double()
        keys = keys + rotate(term.view(tokens, kv_heads, width), cos, sin)
    if tables.v_b is None:
        return keys, values, None, None
    b = tables.v_b[adapter].double().view(v_rank, kv_heads, width)
    return keys, values, lr[:, :v_rank], b
