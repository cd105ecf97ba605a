"""The spec of a larger page, in the terms of the installed vLLM."""

# pyright: reportMissingImports=false

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from vllm.v1.attention.backend import AttentionBackend

from lragent.vllm.worker.page_layout import token_elements

BACKENDS_SIZE_PAGES: bool = hasattr(AttentionBackend, "customize_spec")
"""Whether a backend may change the spec (vLLM 0.29); vLLM 0.26 takes it from the layer alone."""


def page_spec(spec: Any, slots: int, rank: int) -> Any:
    """A layer's spec with room for K, V_base and the LR slots in each page.

    Args:
        spec: vLLM's ``FullAttentionSpec``.
        slots: LR slots of a page.
        rank: width of a slot.
    """
    if not BACKENDS_SIZE_PAGES:
        from lragent.vllm.versions.spec_026 import widened

        return widened(spec, slots * rank)
    elements = token_elements(spec.num_kv_heads, spec.head_size, slots, rank)
    size = torch.empty(0, dtype=spec.dtype).element_size()
    return replace(spec, num_head_slots=1, state_content_bytes=elements * size)
