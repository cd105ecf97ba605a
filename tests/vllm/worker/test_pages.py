"""The spec of a page: its size, and that it stays itself on its way through vLLM."""

# pyright: reportMissingImports=false

from __future__ import annotations

import pickle
from pathlib import Path
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


def test_the_backend_has_a_name_of_its_own_where_vllm_allows_one():
    from vllm.v1.attention.backends.registry import AttentionBackendEnum

    from lragent.vllm.worker.attention import LRAttentionBackend
    from lragent.vllm.worker.backends import registered_name

    allowed = hasattr(AttentionBackendEnum, "register")
    for _ in range(2):
        assert registered_name(on_cpu=True) == ("LRAGENT" if allowed else "CPU_ATTN")
        assert registered_name(on_cpu=False) == ("LRAGENT" if allowed else "CUSTOM")
    if allowed:
        assert AttentionBackendEnum["LRAGENT"].get_class() is LRAttentionBackend


def test_rope_tables_are_those_that_vllm_rotates_with(root: Path):
    """Turning a rotated key back gives the key, at every position."""
    from vllm.config import set_current_vllm_config
    from vllm.engine.arg_utils import EngineArgs
    from vllm.model_executor.layers.rotary_embedding import get_rope

    from lragent.vllm.worker.rotation import key_rotation

    config = EngineArgs(
        model=str(root / "llama"), max_model_len=256, dtype="float32"
    ).create_engine_config()
    size = config.model_config.get_head_size()
    with set_current_vllm_config(config):
        tables = key_rotation(config, size, "cpu")
        hf = config.model_config.hf_text_config
        rope = get_rope(
            size, hf.max_position_embeddings, rope_parameters=hf.rope_parameters,
            dtype=torch.float32,
        )  # fmt: skip
    assert tables.cos.shape == tables.sin.shape == (256, size)
    key = torch.randn(256, size)
    _, rotated = rope.forward_native(torch.arange(256), key.clone(), key.clone())
    halves = torch.cat((-rotated[:, size // 2 :], rotated[:, : size // 2]), dim=-1)
    torch.testing.assert_close(rotated * tables.cos - halves * tables.sin, key)
