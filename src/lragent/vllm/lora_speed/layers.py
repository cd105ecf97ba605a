"""vLLM's LoRA layers, that pass over adapters without weights in modules of their kind."""

# pyright: reportMissingImports=false

from __future__ import annotations

from typing import Any

import torch
from vllm.config import get_current_vllm_config
from vllm.lora.layers import MergedColumnParallelLinearWithLoRA, RowParallelLinearWithLoRA

from lragent.vllm.lora_speed.metadata import prepare_on_host
from lragent.vllm.lora_speed.touched import TouchedModules
from lragent.vllm.options import options_of


def is_on() -> bool:
    """Whether the engine that is being made has the option ``lora_speed``."""
    options = options_of(get_current_vllm_config())
    return options is not None and options.lora_speed


def touched_of(punica: Any, places: int, device: torch.device) -> TouchedModules:
    """What is known of the modules that one of vLLM's wrappers of LoRA kernels serves."""
    touched = getattr(punica, "lragent_touched", None)
    if touched is None:
        touched = punica.lragent_touched = TouchedModules(places, device)
        prepare_on_host(punica, touched.follow, touched.lists)
    return touched


def refresh(punica: Any) -> None:
    """Correct the lists of a step's adapters, when the step's adapters are in place."""
    touched = getattr(punica, "lragent_touched", None)
    if touched is not None and touched.stale:
        touched.refresh()


class SkipsUntouched:
    """To be put before one of vLLM's layers. Where the option is off, it is that layer."""

    base_layer: Any
    device: torch.device
    lora_a_stacked: tuple[torch.Tensor, ...]
    touched: TouchedModules | None = None

    def reset_lora(self, index: int) -> None:
        """As vLLM's own."""
        parent: Any = super()
        parent.reset_lora(index)
        if self.touched is not None:
            self.touched.mark(self.base_layer.prefix, index, False)

    def set_lora(self, index: int, lora_a: Any, lora_b: Any) -> None:
        """As vLLM's own."""
        parent: Any = super()
        parent.set_lora(index, lora_a, lora_b)
        if self.touched is not None:
            self.touched.mark(self.base_layer.prefix, index, True)

    def set_mapping(self, punica_wrapper: Any) -> None:
        """As vLLM's own, with the adapters that have weights here."""
        if is_on():
            places = self.lora_a_stacked[0].shape[0]
            self.touched = touched_of(punica_wrapper, places, self.device)
            punica_wrapper = self.touched.wrapper_for(self.base_layer.prefix, punica_wrapper)
        parent: Any = super()
        parent.set_mapping(punica_wrapper)


class _OnlyWhenOn(SkipsUntouched):
    @classmethod
    def can_replace_layer(cls, *args: Any, **kwargs: Any) -> bool:
        """As vLLM's own."""
        parent: Any = super()
        return is_on() and parent.can_replace_layer(*args, **kwargs)


class QuickRowWithLoRA(_OnlyWhenOn, RowParallelLinearWithLoRA):
    """``o_proj`` and ``down_proj``."""


class QuickMergedColumnWithLoRA(_OnlyWhenOn, MergedColumnParallelLinearWithLoRA):
    """``gate_up_proj``."""
