"""Where the plugin enters vLLM's workers. Every hook is stock where the option is missing."""

# pyright: reportMissingImports=false

from __future__ import annotations

import functools
from typing import Any

from lragent.vllm.options import options_of
from lragent.vllm.patching import Hook
from lragent.vllm.worker.state import state_of


def _lora_classes(stock: tuple[Any, ...]) -> tuple[Any, ...]:
    from lragent.vllm.lora_speed.layers import QuickMergedColumnWithLoRA, QuickRowWithLoRA
    from lragent.vllm.worker.lora_layer import LRMergedQKVWithLoRA

    return (LRMergedQKVWithLoRA, QuickMergedColumnWithLoRA, QuickRowWithLoRA, *stock)


def _get_attn_backend(stock: Any) -> Any:
    from vllm.config import get_current_vllm_config

    @functools.wraps(stock)
    def get_attn_backend(*args: Any, **kwargs: Any) -> Any:
        config = get_current_vllm_config()
        options = options_of(config)
        if options is None:
            return stock(*args, **kwargs)
        from lragent.vllm.worker.backends import backend_for

        return backend_for(config, options)

    return get_attn_backend


def _execute_model(stock: Any) -> Any:
    @functools.wraps(stock)
    def execute_model(self: Any, scheduler_output: Any, *args: Any, **kwargs: Any) -> Any:
        state = state_of(self.vllm_config)
        if state is not None:
            state.begin_step(
                getattr(scheduler_output, "lragent_message", None),
                scheduler_output.finished_req_ids,
            )
            self.input_batch.lragent_state = state
        return stock(self, scheduler_output, *args, **kwargs)

    return execute_model


def _make_lora_inputs(stock: Any) -> Any:
    @functools.wraps(stock)
    def make_lora_inputs(self: Any, num_scheduled_tokens: Any, *args: Any, **kwargs: Any) -> Any:
        state = getattr(self, "lragent_state", None)
        if state is not None:
            count = self.num_reqs
            state.fill(
                self.req_ids[:count],
                self.num_computed_tokens_cpu[:count].tolist(),
                num_scheduled_tokens[:count].tolist(),
            )
        return stock(self, num_scheduled_tokens, *args, **kwargs)

    return make_lora_inputs


def _set_active_loras(stock: Any) -> Any:
    @functools.wraps(stock)
    def set_active_loras(
        self: Any, prompt_lora_mapping: Any, token_lora_mapping: Any, *args: Any, **kwargs: Any
    ) -> Any:
        state = state_of(self.vllm_config)
        if state is not None:
            token_lora_mapping = state.base_in_context(token_lora_mapping)
        return stock(self, prompt_lora_mapping, token_lora_mapping, *args, **kwargs)

    return set_active_loras


def _set_adapter_mapping(stock: Any) -> Any:
    """vLLM calls it in each step, and keeps the mapping until another one takes its place."""

    @functools.wraps(stock)
    def set_adapter_mapping(self: Any, mapping: Any) -> None:
        from lragent.vllm.lora_speed.layers import refresh

        stock(self, mapping)
        for punica in self.punica_wrapper_mapping.values():
            punica.lragent_mapping = self._last_mapping
            refresh(punica)

    return set_adapter_mapping


def _second_execute_model(stock: Any) -> Any:
    @functools.wraps(stock)
    def execute_model(self: Any, scheduler_output: Any, *args: Any, **kwargs: Any) -> Any:
        state = state_of(self.vllm_config)
        message = getattr(scheduler_output, "lragent_message", None)
        if state is not None and message is not None:  # a dummy run has none
            state.begin_step(message, scheduler_output.finished_req_ids)
        return stock(self, scheduler_output, *args, **kwargs)

    return execute_model


def _second_prepare_attn(stock: Any) -> Any:
    @functools.wraps(stock)
    def prepare_attn(self: Any, input_batch: Any) -> Any:
        state = state_of(self.vllm_config)
        if state is not None:
            count = input_batch.num_reqs
            state.fill(
                input_batch.req_ids[:count],
                input_batch.num_computed_tokens_np[:count].tolist(),
                input_batch.num_scheduled_tokens[:count].tolist(),
            )
        return stock(self, input_batch)

    return prepare_attn


def hooks() -> tuple[Hook, ...]:
    """The workers' hooks. Both of vLLM's model runners have some."""
    runner, second = "vllm.v1.worker.gpu_model_runner", "vllm.v1.worker.gpu.model_runner"
    attention = "vllm.model_executor.layers.attention.attention"
    mapping = "LoRAModelManager.set_adapter_mapping"
    mixin = "vllm.v1.worker.lora_model_runner_mixin"
    return (
        Hook("vllm.lora.utils", "_all_lora_classes", _lora_classes),
        Hook("vllm.lora.model_manager", mapping, _set_adapter_mapping),
        Hook(attention, "get_attn_backend", _get_attn_backend),
        Hook(runner, "GPUModelRunner.execute_model", _execute_model),
        Hook("vllm.v1.worker.gpu_input_batch", "InputBatch.make_lora_inputs", _make_lora_inputs),
        Hook(mixin, "LoRAModelRunnerMixin._set_active_loras", _set_active_loras),
        Hook(second, "GPUModelRunner.execute_model", _second_execute_model),
        Hook(second, "GPUModelRunner.prepare_attn", _second_prepare_attn),
    )
