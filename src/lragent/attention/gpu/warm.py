"""Compiling before serving begins: a kernel that is compiled when it is first needed stops a
request for seconds."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from lragent.attention.base import AttentionBatch, KeyRotation, LoraTables, PageViews
from lragent.attention.gpu.backend import (
    TritonBackend,
    parts_of,
    shape_of,
)
from lragent.attention.gpu.calls import prepare
from lragent.attention.gpu.launch import MOST_SPLITS, AttendCall, prepare_attend
from lragent.attention.gpu.layer import Layer, Sequences
from lragent.attention.gpu.plan import Run, estimates
from lragent.attention.gpu.project import launch_project, tokens_by_tile
from lragent.attention.gpu.tiles import attention_tile

_QUERIES = (16, 256, 2048)
_SHORTEST = 64


def warm_up(
    pages: PageViews,
    tables: LoraTables,
    down: Tensor,
    *,
    rotation: KeyRotation | None = None,
    heads: int,
    columns: int,
    scale: float,
    max_tokens: int,
    max_requests: int,
    max_context: int,
) -> None:
    """Run every kernel once in each form that batches up to these sizes are served by.

    Args:
        pages: at least one page of numbers, laid out like the cache.
        tables: B of the values, and of the keys if there is LoRA on them, laid out like a layer's.
        down: ``[n, r, hidden]``, the A of the projections.
        rotation: with LoRA on the keys.
        heads: query heads.
        columns: LR slots that a token fills at most.
        scale: softmax scale.
        max_tokens: most tokens of a step.
        max_requests: most sequences of a step.
        max_context: longest context.
    """
    device, dtype = pages.k.device, pages.k.dtype
    layer, backend = Layer.of(pages, tables, rotation), TritonBackend()
    for call, q in _attention(layer, heads, scale, max_context, pages.page_size):
        call(q, torch.empty_like(q), layer)
    for queries, contexts in _prefills(max_tokens, max_requests, max_context):
        q = torch.zeros(sum(queries), heads, pages.head_dim, dtype=dtype, device=device)
        batch = _batch(queries, contexts, pages.page_size, device)
        if len(queries) == 1:
            _by_every_path(q, layer, batch, scale)
        else:
            backend.attend(q, pages, batch, tables, scale=scale, rotation=rotation)
    k = torch.zeros(1, pages.kv_heads, pages.head_dim, dtype=dtype, device=device)
    nowhere = torch.full((max_tokens, columns), -1, dtype=torch.int32, device=device)
    some = nowhere[:1]
    keep = torch.zeros(1, dtype=torch.bool, device=device)
    lr = k.new_zeros(1, *down.shape[:2])
    place = torch.zeros(1, dtype=torch.int64, device=device)
    backend.write(k, k, lr, pages, place, keep, some, some)
    x = down.new_zeros(max_tokens, down.shape[2])
    out = x.new_empty(max_tokens, *down.shape[:2])
    for tokens in tokens_by_tile(max_tokens, columns, down):
        launch_project(x[:tokens], down, nowhere, out)


def _attention(
    layer: Layer, heads: int, scale: float, max_context: int, page_size: int
) -> Iterator[tuple[AttendCall, Tensor]]:
    """Attention over pages with every tile, and with every number of shares that is compiled in."""
    device, dtype, width = layer.k.device, layer.k.dtype, layer.k.shape[3]
    group = heads // layer.k.shape[1]
    for kind in ("decode", "few", "many"):
        tile = attention_tile(kind, device, dtype, width, group, layer.v_rank, layer.k_rank)
        queries, context = 1 if kind == "decode" else 2, min(_SHORTEST, max_context)
        batch = _batch([queries], [context], page_size, device)
        q = torch.zeros(queries, heads, width, dtype=dtype, device=device)
        for splits in _powers(1, MOST_SPLITS if dtype.itemsize == 2 else 1, 2):
            call = prepare_attend(
                q, q, batch.cu_seqlens_q, layer, Sequences.of(batch, slice(0, 1)), scale, 0,
                context, kind == "decode", 1, queries, tile, splits,
            )  # fmt: skip
            assert call is not None, "there are queries"
            yield call, q


def _by_every_path(q: Tensor, layer: Layer, batch: AttentionBatch, scale: float) -> None:
    """One prompt by each path that is possible, whichever is estimated fastest."""
    out = torch.empty_like(q)
    shape, query, context = shape_of(q, layer, 0), batch.max_query, batch.max_seq
    for path in estimates(shape, query, context):
        plan = parts_of([Run(path, 0, 1, query, context, context)], batch, shape, q.dtype)
        for call in prepare(plan, q, out, layer, scale, 0):
            call(q, out, layer)


def _prefills(
    max_tokens: int, max_requests: int, max_context: int
) -> Iterator[tuple[list[int], list[int]]]:
    """Queries and contexts of prompts, alone and beside a decoding sequence."""
    for query in (min(query, max_tokens) for query in _QUERIES):
        for context in _powers(_SHORTEST, max_context, 4):
            if context >= query:
                yield [query], [context]
                if max_requests > 1 and query < max_tokens:
                    yield [1, query], [context, context]


def _powers(first: int, last: int, step: int) -> list[int]:
    """``first``, ``first * step`` and so on, and ``last``."""
    found = []
    while first < last:
        found.append(first)
        first *= step
    return [*found, last]


def _batch(
    queries: list[int], contexts: list[int], page_size: int, device: torch.device
) -> AttentionBatch:
    """Sequences that all lie on the first page, again and again, with the first adapter."""
    count = len(queries)
    starts = [sum(queries[:place]) for place in range(count + 1)]
    pages = -(-max(contexts) // page_size)

    def integers(values: list[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.int32, device=device)

    return AttentionBatch(
        block_tables=torch.zeros(count, pages, dtype=torch.int32, device=device),
        cu_seqlens_q=integers(starts),
        seq_lens=integers(contexts),
        adapter_index=integers([0] * count),
        lr_slot=integers([0] * count),
        max_query=max(queries),
        max_seq=max(contexts),
        host_block_tables=[],
        host_cu_seqlens_q=starts,
        host_seq_lens=contexts,
        host_adapter_index=[0] * count,
        host_lr_slot=[0] * count,
    )
