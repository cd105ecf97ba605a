"""Which attention backend an engine gets: by its device, and by the LR slots of its pages."""

from __future__ import annotations

from typing import Any

import torch

from lragent.vllm.config import Options
from lragent.vllm.worker.attention import LRAttentionBackend

_sized: dict[tuple[Any, ...], type[LRAttentionBackend]] = {}


def sized_backend(
    base: type[LRAttentionBackend], slots: int, rank: int, name: str
) -> type[LRAttentionBackend]:
    """A backend for pages of that many LR slots of that rank, under a name that vLLM knows."""
    key = (base, slots, rank, name)
    if key not in _sized:
        _sized[key] = type(base.__name__, (base,), {
            "slots": slots, "rank": rank, "platform_name": name, "__module__": base.__module__,
        })  # fmt: skip
    return _sized[key]


def backend_for(vllm_config: Any, options: Options) -> type[LRAttentionBackend]:
    """The backend for an engine's device, slots and rank."""
    rank = vllm_config.lora_config.max_lora_rank
    if torch.device(vllm_config.device_config.device).type == "cpu":
        return sized_backend(LRAttentionBackend, options.num_slots, rank, "CPU_ATTN")
    from lragent.vllm.worker.attention_gpu import LRDeviceBackend  # needs Triton

    return sized_backend(LRDeviceBackend, options.num_slots, rank, "CUSTOM")
