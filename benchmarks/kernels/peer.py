"""What the kernels are compared with: FlashAttention 3 on the same pages, else PyTorch's SDPA."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from benchmarks.kernels.timing import Case

from lragent.attention.gpu import fa3


def peer_calls(case: Case) -> list[Callable[[], object]]:
    """FlashAttention 3 on the same pages, with and without scheduling beforehand; else SDPA."""
    found, pages, batch = fa3.find(case.q.device), case.pool.pages, case.batch
    if found is None:
        return [partial(sdpa, case)]
    module, varlen = found
    common: dict[str, Any] = {
        "seqused_k": batch.seq_lens,
        "block_table": batch.block_tables,
        "softmax_scale": case.scale,
        "causal": True,
        "out": case.out,
        "fa_version": 3,
    }
    k, v = pages.k.transpose(1, 2), pages.v.transpose(1, 2)
    call = partial(
        varlen, case.q, k, v, batch.max_query, batch.cu_seqlens_q, batch.max_seq, **common
    )
    scheduler = getattr(sys.modules[module], "get_scheduler_metadata", None)
    if scheduler is None:
        return [call]
    metadata = scheduler(
        batch_size=batch.num_sequences,
        max_seqlen_q=batch.max_query,
        max_seqlen_k=batch.max_seq,
        num_heads_q=case.q.shape[1],
        num_heads_kv=pages.kv_heads,
        headdim=pages.head_dim,
        cache_seqlens=batch.seq_lens,
        cu_seqlens_q=batch.cu_seqlens_q,
        page_size=pages.page_size,
        causal=True,
    )
    return [call, partial(call, scheduler_metadata=metadata)]


def sdpa(case: Case) -> None:
    """PyTorch's attention over gathered keys, one sequence after the other."""
    pages, batch = case.pool.pages, case.batch
    for number, tokens in enumerate(batch.host_seq_lens):
        first, last = batch.host_cu_seqlens_q[number : number + 2]
        where = batch.block_tables[number, : -(-tokens // pages.page_size)]
        k, v = (
            x[where].transpose(0, 1).reshape(1, pages.kv_heads, -1, pages.head_dim)[:, :, :tokens]
            for x in (pages.k, pages.v)
        )
        mask = torch.ones(last - first, tokens, dtype=torch.bool, device=k.device)
        mask = mask.tril(tokens - (last - first))
        q = case.q[first:last].transpose(0, 1)[None]
        result = torch.nn.functional.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, enable_gqa=True
        )
        case.out[first:last] = result[0].transpose(0, 1)
