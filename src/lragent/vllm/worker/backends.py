"""Which attention backend an engine gets: by its device, and by the LR slots of its pages."""

# pyright: reportMissingImports=false

from __future__ import annotations

from typing import Any

import torch
from vllm.v1.attention.backends.registry import AttentionBackendEnum, register_backend

from lragent.vllm.options import Options
from lragent.vllm.worker.attention import LRAttentionBackend

NAME = "LRAGENT"

_sized: dict[tuple[Any, ...], type[LRAttentionBackend]] = {}


def sized_backend(
    base: type[LRAttentionBackend], slots: int, width: int, name: str
) -> type[LRAttentionBackend]:
    """A backend for pages of that many LR slots of that width, under a name that vLLM knows."""
    key = (base, slots, width, name)
    if key not in _sized:
        _sized[key] = type(base.__name__, (base,), {
            "slots": slots, "width": width, "platform_name": name, "__module__": base.__module__,
        })  # fmt: skip
    return _sized[key]


def backend_for(vllm_config: Any, options: Options) -> type[LRAttentionBackend]:
    """The backend for an engine's device and LR slots."""
    width = options.slot_width(vllm_config.lora_config.max_lora_rank)
    on_cpu = torch.device(vllm_config.device_config.device).type == "cpu"
    name = registered_name(on_cpu)
    if on_cpu:
        return sized_backend(LRAttentionBackend, options.num_slots, width, name)
    from lragent.vllm.worker.attention_gpu import LRDeviceBackend  # needs Triton

    return sized_backend(LRDeviceBackend, options.num_slots, width, name)


def registered_name(on_cpu: bool) -> str:
    """The backend's name in vLLM's table: its own, which vLLM allows from 0.32 on."""
    if not hasattr(AttentionBackendEnum, "register"):
        return "CPU_ATTN" if on_cpu else "CUSTOM"
    if NAME not in AttentionBackendEnum.__members__:
        register_backend(NAME, f"{__name__}.{LRAttentionBackend.__name__}")
    return NAME
