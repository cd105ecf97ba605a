"""vLLM's pages as `lragent.cache.PageLayout`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lragent.attention import PageViews, page_views
from lragent.cache.layout import PageLayout
from lragent.vllm.errors import PluginError


def token_elements(kv_heads: int, head_dim: int, slots: int, width: int) -> int:
    """Elements of one token in one layer: K, V_base and all LR slots."""
    return 2 * kv_heads * head_dim + slots * width


def page_spec(spec: Any, slots: int, width: int) -> Any:
    """A layer's spec with room for K, V_base and the LR slots in each page.

    Args:
        spec: vLLM's ``FullAttentionSpec``.
        slots: LR slots of a page.
        width: elements of a slot for one token.
    """
    elements = token_elements(spec.num_kv_heads, spec.head_size, slots, width)
    size = torch.empty(0, dtype=spec.dtype).element_size()
    return replace(spec, num_head_slots=1, state_content_bytes=elements * size)


def views_of(
    kv_cache: Tensor, kv_heads: int, head_dim: int, slots: int, v_rank: int, k_rank: int
) -> PageViews:
    """The blocks of one layer's pages.

    Args:
        kv_cache: ``[pages, 1, tokens, elements]`` as vLLM hands it out; each page contiguous.
        kv_heads: KV heads on this rank.
        head_dim: size of a head.
        slots: LR slots of a page.
        v_rank: elements of a slot for one token that belong to the values.
        k_rank: those that belong to the keys.

    Raises:
        PluginError: vLLM's tensor is no row of such pages.
    """
    pages, heads, tokens, elements = kv_cache.shape
    layout = PageLayout(tokens, kv_heads, head_dim, slots, v_rank, k_rank, kv_cache.element_size())
    stride = kv_cache.stride()
    fits = layout.page_elements == tokens * elements
    if heads != 1 or not fits or stride[2:] != (elements, 1):
        raise PluginError(
            f"vLLM's KV cache has shape {tuple(kv_cache.shape)} and strides {stride}, where pages "
            f"of {layout.page_elements} elements were asked for; another plugin or a KV cache "
            "layout (VLLM_KV_CACHE_LAYOUT) stands in the way"
        )
    flat = kv_cache.as_strided((pages, layout.page_elements), (stride[0], 1))
    return page_views(flat, layout)
