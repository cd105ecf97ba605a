"""Several queries over cached context: gather the tokens once, then PyTorch's own fused attention.

With LoRA the values are gathered as ``[V | z]`` and queries and keys get zero columns to match, so
one fused call returns ``[P V | P z]`` from the same probabilities, as the kernel of the paper does
with its two accumulators. ``P z`` is expanded by B afterwards, once a query.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lragent.attention.base import KeyRotation, PageViews
from lragent.attention.torch_plan import SequencePlan


def attend(
    q: Tensor,
    pages: PageViews,
    plan: SequencePlan,
    slot: int,
    v_b: Tensor | None,
    k_b: Tensor | None,
    rotation: KeyRotation | None,
    scale: float,
    out: Tensor,
) -> None:
    """Attention of ``q [n, Hq, D]`` into ``out [n, Hq, D]``.

    Args:
        q: queries of one sequence.
        pages: K, V and LR blocks.
        plan: the sequence's pages and mask.
        slot: LR slot to read; unused without ``v_b`` and ``k_b``.
        v_b: ``[Rv, Hk*D]`` of the sequence's adapter, or None.
        k_b: ``[Rk, Hk*D]``, or None.
        rotation: needed with ``k_b``.
        scale: factor of the scores.
        out: result.
    """
    new, heads, width = q.shape
    kv_heads = pages.kv_heads
    group = heads // kv_heads
    dtype = torch.promote_types(q.dtype, torch.float32)
    tokens = plan.full_pages * pages.page_size + plan.tail
    rank = 0 if v_b is None else v_b.shape[0]

    def zero_columns(*shape: int) -> Tensor:
        x = q.new_empty(*shape, width + rank, dtype=dtype)
        x[..., width:].zero_()
        return x

    queries = zero_columns(kv_heads, group, new)
    queries[..., :width] = q.view(new, kv_heads, group, width).permute(1, 2, 0, 3)
    keys, values = zero_columns(kv_heads, tokens), zero_columns(kv_heads, tokens)
    _gather(pages.k, plan, keys[..., :width])
    _gather(pages.v, plan, values[..., :width])
    if pages.lr is not None and (v_b is not None or k_b is not None):
        columns = rank + (0 if k_b is None else k_b.shape[0])
        z = q.new_empty(1, tokens, columns, dtype=dtype)
        _gather(pages.lr[:, None, :, slot, :columns], plan, z)
        values[..., width:] = z[..., :rank]
        if k_b is not None and rotation is not None:
            _add_key_term(keys[..., :width], z[0, :, rank:], k_b.to(dtype), rotation, plan)

    def all_heads(x: Tensor) -> Tensor:
        return x[:, None, plan.skip :].expand(-1, group, -1, -1)

    result = F.scaled_dot_product_attention(
        queries,
        all_heads(keys),
        all_heads(values),
        attn_mask=plan.mask if plan.mask is None else plan.mask.to(dtype),
        is_causal=plan.causal,
        scale=scale,
    )
    base = result[..., :width]
    if v_b is not None:
        b = v_b.to(dtype).view(rank, kv_heads, width).transpose(0, 1)
        base = base + torch.matmul(result[..., width:], b[:, None])
    out.view(new, kv_heads, group, width).copy_(base.permute(2, 0, 1, 3))


def _gather(block: Tensor, plan: SequencePlan, out: Tensor) -> None:
    """Copy the sequence's rows of ``block [P, H, N, C]`` to ``out [H, tokens, C]``."""
    size = block.shape[2]
    for segment in plan.segments:
        rows = out[:, segment.start * size : (segment.start + segment.pages) * size]
        rows.unflatten(1, (segment.pages, size)).copy_(segment.take(block).transpose(0, 1))
    if plan.tail:
        out[:, plan.full_pages * size :] = block[plan.last_page, :, : plan.tail]


def _add_key_term(
    keys: Tensor, z: Tensor, k_b: Tensor, rotation: KeyRotation, plan: SequencePlan
) -> None:
    """``keys [Hk, tokens, D] += RoPE(z B)`` at the tokens' positions, in place."""
    kv_heads, tokens, width = keys.shape
    half = width // 2
    seen = slice(plan.position, plan.position + tokens)
    cos, sin = rotation.cos[seen], rotation.sin[seen]
    term = torch.matmul(z, k_b.view(-1, kv_heads, width).transpose(0, 1))
    keys.addcmul_(term, cos)
    keys[..., :half].addcmul_(term[..., half:], sin[:, :half], value=-1)
    keys[..., half:].addcmul_(term[..., :half], sin[:, half:])
