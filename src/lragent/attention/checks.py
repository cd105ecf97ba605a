"""Argument checks that every implementation shares; they read shapes and host lists only."""

from __future__ import annotations

from torch import Tensor

from lragent.attention.base import AttentionBatch, KeyRotation, LoraTables, PageViews


def check_attention(
    q: Tensor,
    pages: PageViews,
    batch: AttentionBatch,
    tables: LoraTables,
    *,
    sliding_window: int | None,
    rotation: KeyRotation | None,
    out: Tensor | None,
) -> None:
    """Refuse arguments of `flash_lora_attention` that do not fit each other.

    Layers of one step differ in their tensors, not in their sizes: what fitted once for a batch is
    not looked at again.

    Raises:
        ValueError: with the sizes that disagree.
    """
    others = (pages.lr, tables.v_b, tables.k_b, out, None if rotation is None else rotation.cos)
    shapes = [None if x is None else x.shape for x in others]
    key = (q.shape, pages.k.shape, sliding_window, *shapes)
    batch.once(_check, key, q, pages, batch, tables, sliding_window, rotation, out)


def _check(
    q: Tensor,
    pages: PageViews,
    batch: AttentionBatch,
    tables: LoraTables,
    sliding_window: int | None,
    rotation: KeyRotation | None,
    out: Tensor | None,
) -> None:
    _check_sizes(q, pages, batch, sliding_window, out)
    _check_lora(pages, batch, tables, rotation)


def _check_sizes(
    q: Tensor,
    pages: PageViews,
    batch: AttentionBatch,
    sliding_window: int | None,
    out: Tensor | None,
) -> None:
    if q.dim() != 3 or q.shape[0] < batch.num_queries:
        raise ValueError(
            f"q must be [T, Hq, D] with T >= {batch.num_queries}, got {tuple(q.shape)}"
        )
    heads, width = q.shape[1], q.shape[2]
    if width != pages.head_dim or heads % pages.kv_heads:
        raise ValueError(
            f"q has {heads} heads of {width}, the pages {pages.kv_heads} heads of {pages.head_dim}:"
            " the widths must be equal and the query heads a multiple of the key heads"
        )
    if out is not None and out.shape != q.shape:
        raise ValueError(f"out has shape {tuple(out.shape)}, q has {tuple(q.shape)}")
    if sliding_window is not None and sliding_window < 1:
        raise ValueError(f"sliding_window must be at least 1, got {sliding_window}")
    size = pages.page_size
    for index, (table, tokens) in enumerate(
        zip(batch.host_block_tables, batch.host_seq_lens, strict=True)
    ):
        if len(table) * size < tokens:
            raise ValueError(
                f"sequence {index} has {tokens} tokens, its {len(table)} pages of {size} hold fewer"
            )


def _check_lora(
    pages: PageViews, batch: AttentionBatch, tables: LoraTables, rotation: KeyRotation | None
) -> None:
    rank = tables.v_rank + tables.k_rank
    if not rank:
        return
    for name, table in (("v_b", tables.v_b), ("k_b", tables.k_b)):
        if table is not None and table.shape[2] != pages.kv_heads * pages.head_dim:
            raise ValueError(
                f"{name} has width {table.shape[2]}, the pages need "
                f"{pages.kv_heads} x {pages.head_dim}"
            )
    if tables.k_b is not None:
        if rotation is None:
            raise ValueError("key LoRA needs a KeyRotation: the cached keys are already rotated")
        if rotation.cos.shape[-1] != pages.head_dim:
            raise ValueError(
                f"the key rotation covers {rotation.cos.shape[-1]} of {pages.head_dim} "
                "dimensions: key LoRA with partial rotary embedding is not supported"
            )
        if rotation.cos.shape[0] < batch.max_seq:
            raise ValueError(
                f"the key rotation has {rotation.cos.shape[0]} positions, "
                f"the longest sequence {batch.max_seq} tokens"
            )
    if not any(map(batch.uses_lora, range(batch.num_sequences))):
        return
    if pages.lr is None:
        raise ValueError("a sequence reads an LR slot, but the pages have no LR block")
    slots, columns = pages.lr.shape[2], pages.lr.shape[3]
    if rank > columns:
        raise ValueError(f"the LoRA tables need {rank} LR columns, a slot has {columns}")
    if max(batch.host_lr_slot) >= slots:
        raise ValueError(f"a sequence reads LR slot {max(batch.host_lr_slot)}, pages have {slots}")
    table = tables.v_b if tables.v_b is not None else tables.k_b
    if table is not None and max(batch.host_adapter_index) >= table.shape[0]:
        raise ValueError(
            f"a sequence uses adapter {max(batch.host_adapter_index)}, "
            f"the LoRA tables hold {table.shape[0]}"
        )
