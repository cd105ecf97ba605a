"""Slow loops that a reader can check against the paper: attention, cache write and projection.

For one query ``q`` of one head, over the cached tokens t that it may see:

    K_t = k_t + RoPE_t(z_k,t B_k)        S_t = scale * q . K_t        P = softmax(S)
    O   = P V + (P z_v) B_v

Everything is computed in float64 and returned in the caller's dtype.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lragent.attention.backend import Backend
from lragent.attention.base import AttentionBatch, KeyRotation, LoraTables, PageViews


class NaiveBackend(Backend):
    """The three operations as loops."""

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
        """Token by token."""
        for token, place in enumerate(slot_mapping.tolist()):
            if place < 0:
                continue
            page, row = divmod(place, pages.page_size)
            if write_base[token]:
                pages.k[page, :, row] = k[token].to(pages.k.dtype)
                pages.v[page, :, row] = v[token].to(pages.v.dtype)
            if lr is None or pages.lr is None:
                continue
            for source, slot in zip(lr_rows[token].tolist(), lr_slots[token].tolist(), strict=True):
                if slot >= 0:
                    z = lr[token, source] if source >= 0 else torch.zeros_like(lr[token, 0])
                    pages.lr[page, row, slot] = z.to(pages.lr.dtype)

    def project(self, x: Tensor, a: Tensor, index: Tensor) -> Tensor:
        """Token by token in float64; zeros where nobody asks."""
        out = x.new_zeros(x.shape[0], *a.shape[:2])
        for token, rows in enumerate(index.tolist()):
            for row in rows:
                if row >= 0:
                    out[token, row] = (a[row].double() @ x[token].double()).to(x.dtype)
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
