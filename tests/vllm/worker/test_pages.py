"""The spec of a page: its size, and that it stays itself on its way through vLLM."""

# pyright: reportMissingImports=false

from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch

from lragent.vllm.worker.pages import page_spec

pytestmark = pytest.mark.every_version

PAGE_BYTES = 16 * 2 * (2 * 2 * 8 + 3 * 64)  # tokens, bytes an element, K and V, three slots


def stock(**more: Any) -> Any:
    from vllm.v1.kv_cache_interface import FullAttentionSpec

    return FullAttentionSpec(
        block_size=16, num_kv_heads=2, head_size=8, dtype=torch.bfloat16, **more
    )


def test_room_for_the_slots():
    assert stock().page_size_bytes == 16 * 2 * 32
    spec = page_spec(stock(), slots=3, width=64)
    assert spec.page_size_bytes == PAGE_BYTES
    assert spec.copy_with_new_block_size(32).page_size_bytes == 2 * PAGE_BYTES


def test_the_layers_of_a_model_are_one_group():
    """Workers send their layers' specs to the engine core, which merges them."""
    layers = [pickle.loads(pickle.dumps(page_spec(stock(), 3, 64))) for _ in range(2)]
    merged = type(layers[0]).merge(layers)
    assert merged == layers[0]
    assert merged.page_size_bytes == PAGE_BYTES


def test_vllm_finds_the_manager_of_ordinary_pages():
    from vllm.v1.core.single_type_kv_cache_manager import FullAttentionManager
    from vllm.v1.kv_cache_spec_registry import KVCacheSpecRegistry

    found = [KVCacheSpecRegistry.get_manager_class(s) for s in (page_spec(stock(), 3, 64), stock())]
    assert found == [FullAttentionManager, FullAttentionManager]
