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
from lragent.attention.cpu.plan import SequencePlan


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
        v_b: ``[Hk, Rv, D]`` of the sequence's adapter, or None.
        k_b: ``[Hk, Rk, D]``, or None.
        rotation: needed with ``k_b``.
        scale: factor of the scores.
        out: result.
    """
    new, heads, width = q.shape
    kv_heads = pages.kv_heads
    group = heads // kv_heads
    dtype = torch.promote_types(q.dtype, torch.float32)
    tokens = plan.pages * pages.page_size
    if plan.tail:
        tokens += plan.tail - pages.page_size
    rank = 0 if v_b is None else v_b.shape[1]

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
        columns = rank + (0 if k_b is None else k_b.shape[1])
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
        base = base + torch.matmul(result[..., width:], v_b.to(dtype)[:, None])
    out.view(new, kv_heads, group, width).copy_(base.permute(2, 0, 1, 3))


def _gather(block: Tensor, plan: SequencePlan, out: Tensor) -> None:
    """Copy the sequence's rows of ``block [P, H, N, C]`` to ``out [H, tokens, C]``."""
    size = block.shape[2]
    for part in plan.segments:
        if part.full:
            count = part.full * size
            out.narrow(1, part.start * size, count).copy_(part.rows(block).narrow(1, 0, count))
    if plan.tail:
        out[:, (plan.pages - 1) * size :] = block[plan.last_page, :, : plan.tail]


def _add_key_term(
    keys: Tensor, z: Tensor, k_b: Tensor, rotation: KeyRotation, plan: SequencePlan
) -> None:
    """``keys [Hk, tokens, D] += RoPE(z B)`` at the tokens' positions, in place."""
    _, tokens, width = keys.shape
    half = width // 2
    seen = slice(plan.position, plan.position + tokens)
    cos, sin = rotation.cos[seen], rotation.sin[seen]
    term = torch.matmul(z, k_b)
    keys.addcmul_(term, cos)
    keys[..., :half].addcmul_(term[..., half:], sin[:, :half], value=-1)
    keys[..., half:].addcmul_(term[..., :half], sin[:, half:])
