"""RoPE tables for the key term of adapters on ``k_proj``, from vLLM's own rotary embedding."""

# pyright: reportMissingImports=false

from __future__ import annotations

from typing import Any

import torch

from lragent.attention import KeyRotation
from lragent.vllm.errors import PluginError


def key_rotation(vllm_config: Any, head_size: int, device: torch.device | str) -> KeyRotation:
    """The tables of every position that a request can reach.

    Args:
        vllm_config: the engine's configuration.
        head_size: size of a head, D.
        device: where the tables are used.

    Raises:
        PluginError: the model rotates keys in another way than by halves of a whole head.
    """
    from vllm.model_executor.layers.rotary_embedding import get_rope

    model = vllm_config.model_config
    config = model.hf_text_config
    rope = get_rope(
        head_size,
        max_position=config.max_position_embeddings,
        rope_parameters=getattr(config, "rope_parameters", None),
        dtype=torch.float32,
    )
    table = getattr(rope, "cos_sin_cache", None)  # [positions, D]: cosines, then sines
    if (
        table is None
        or table.shape[-1] != head_size
        or table.shape[0] < model.max_model_len
        or model.quantization == "gguf"
    ):
        raise PluginError(
            f"lragent.key_lora: {model.model} rotates its keys by {type(rope).__name__}, which "
            "lragent cannot turn back; leave key_lora out"
        )
    cos, sin = table[: model.max_model_len].to(device).chunk(2, dim=-1)
    return KeyRotation(torch.cat((cos, cos), dim=-1), torch.cat((sin, sin), dim=-1))
