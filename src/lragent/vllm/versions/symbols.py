"""Which vLLM the plugin knows, and whether the installed one is still what it knows."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

VERSIONS = ("0.26.0", "0.29.0")


@dataclass(frozen=True)
class Symbol:
    """Something of vLLM that the plugin uses.

    Attributes:
        module: where it lives.
        name: attribute path in the module.
        parameters: names of parameters that it must take; None when it is no function.
        versions: versions of vLLM in which it is used.
    """

    module: str
    name: str
    parameters: tuple[str, ...] | None = None
    versions: tuple[str, ...] = VERSIONS

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


SYMBOLS: tuple[Symbol, ...] = (
    Symbol("vllm.config", "VllmConfig.__post_init__", ("self",)),
    Symbol("vllm.config", "get_current_vllm_config", ()),
    Symbol("vllm.v1.core.kv_cache_utils", "_gen_lora_extra_hash_keys", ("request",)),
    Symbol("vllm.v1.core.kv_cache_utils", "generate_block_hash_extra_keys", ("request",)),
    Symbol(
        "vllm.v1.core.kv_cache_manager",
        "KVCacheManager.allocate_slots",
        ("request", "num_new_tokens", "num_new_computed_tokens", "new_computed_blocks"),
    ),
    Symbol("vllm.v1.core.kv_cache_manager", "KVCacheManager.get_computed_blocks", ("request",)),
    Symbol("vllm.v1.core.kv_cache_manager", "KVCacheManager.create_kv_cache_blocks", ("blocks",)),
    Symbol(
        "vllm.v1.core.kv_cache_manager",
        "KVCacheManager.cache_blocks",
        ("request", "num_computed_tokens"),
    ),
    Symbol("vllm.v1.core.kv_cache_manager", "KVCacheManager.get_blocks", ("request_id",)),
    Symbol(
        "vllm.v1.core.kv_cache_manager",
        "KVCacheManager.record_prefix_cache_stats",
        ("request", "num_hits"),
        ("0.29.0",),
    ),
    Symbol(
        "vllm.v1.metrics.stats",
        "PrefixCacheStats.record",
        ("num_tokens", "num_hits", "preempted"),
        ("0.26.0",),
    ),
    Symbol("vllm.v1.request", "Request.get_skip_reading_prefix_cache", ("self",)),
    Symbol("vllm.v1.core.kv_cache_manager", "KVCacheManager.free", ("request",)),
    Symbol("vllm.v1.core.kv_cache_manager", "KVCacheManager.pop_blocks_for_free", ("request",)),
    Symbol(
        "vllm.v1.core.kv_cache_coordinator",
        "KVCacheCoordinator.find_longest_cache_hit",
        ("block_hashes", "max_cache_hit_length"),
    ),
    Symbol("vllm.v1.core.block_pool", "BlockPool.get_new_blocks", ("num_blocks",)),
    Symbol("vllm.v1.core.block_pool", "BlockPool.evict_blocks", ("block_ids",)),
    Symbol("vllm.v1.core.sched.scheduler", "Scheduler.__init__", ("vllm_config",)),
    Symbol("vllm.v1.core.sched.scheduler", "Scheduler.schedule", ()),
    Symbol("vllm.v1.engine.core", "EngineCore.preprocess_add_request", ("request",)),
    Symbol("vllm.v1.engine.core", "EngineCore.add_lora", ("lora_request",)),
    Symbol("vllm.v1.engine.core", "EngineCore.remove_lora", ("lora_id",)),
    Symbol("vllm.v1.engine.core", "EngineCore.list_loras", ()),
    Symbol("vllm.v1.engine.core", "EngineCore.pin_lora", ("lora_id",)),
    Symbol("vllm.v1.engine.core", "EngineCore.shutdown", ()),
    Symbol("vllm.entrypoints.openai.models.serving", "OpenAIServingModels.init_static_loras", ()),
    Symbol(
        "vllm.entrypoints.openai.models.serving",
        "OpenAIServingModels.unload_lora_adapter",
        ("request",),
    ),
    Symbol("vllm.v1.engine.llm_engine", "LLMEngine.add_request", ("request_id",)),
    Symbol("vllm.v1.engine.llm_engine", "LLMEngine.abort_request", ("request_ids",)),
    Symbol("vllm.lora.utils", "_all_lora_classes"),
    Symbol("vllm.lora.request", "LoRARequest"),
    Symbol(
        "vllm.lora.layers",
        "MergedQKVParallelLinearWithLoRA.create_lora_weights",
        ("max_loras", "lora_config", "model_config"),
    ),
    Symbol("vllm.lora.layers", "MergedQKVParallelLinearWithLoRA.apply", ("x", "bias")),
    Symbol("vllm.lora.layers", "MergedQKVParallelLinearWithLoRA._get_quant_method", ()),
    Symbol("vllm.lora.layers", "MergedQKVParallelLinearWithLoRA.set_mapping", ("punica_wrapper",)),
    Symbol("vllm.lora.layers", "MergedColumnParallelLinearWithLoRA.set_lora", ("index",)),
    Symbol("vllm.lora.layers", "RowParallelLinearWithLoRA.set_lora", ("index",)),
    Symbol("vllm.lora.layers", "RowParallelLinearWithLoRA.reset_lora", ("index",)),
    Symbol("vllm.lora.utils", "is_in_target_modules", ("module_name", "target_modules")),
    Symbol(
        "vllm.lora.ops.triton_ops.lora_kernel_metadata",
        "LoRAKernelMeta.__init__",
        (
            "active_lora_ids",
            "num_tokens_per_lora",
            "lora_token_start_loc",
            "no_lora_flag_cpu",
            "num_active_loras_cpu",
            "token_lora_mapping",
            "token_indices_sorted_by_lora_ids",
            "captured_lora_counts",
        ),
    ),
    Symbol(
        "vllm.lora.layers",
        "LoRAMapping.__init__",
        ("index_mapping", "prompt_mapping", "is_prefill"),
    ),
    Symbol(
        "vllm.lora.punica_wrapper.punica_gpu",
        "PunicaWrapperGPU.update_metadata",
        ("mapping", "lora_index_to_id", "max_loras", "vocab_size"),
    ),
    Symbol("vllm.lora.peft_helper", "PEFTHelper.from_local_dir", ("lora_path",)),
    Symbol("vllm.lora.peft_helper", "PEFTHelper.validate_legal", ("lora_config",)),
    Symbol(
        "vllm.lora.punica_wrapper.punica_base",
        "PunicaWrapperBase.add_shrink",
        ("y", "x", "lora_a_stacked", "scale"),
    ),
    Symbol(
        "vllm.lora.punica_wrapper.punica_base",
        "PunicaWrapperBase.add_expand",
        ("y", "x", "lora_b_stacked", "output_slices"),
    ),
    Symbol("vllm.model_executor.layers.attention.attention", "get_attn_backend"),
    Symbol("vllm.v1.attention.backend", "AttentionBackend.customize_spec", ("spec",), ("0.29.0",)),
    Symbol(
        "vllm.v1.attention.backend",
        "AttentionBackend.get_kv_cache_shape",
        ("num_blocks", "block_size", "num_kv_heads", "head_size", "cache_dtype_str"),
        ("0.26.0",),
    ),
    Symbol(
        "vllm.model_executor.layers.attention.attention",
        "Attention.get_kv_cache_spec",
        ("vllm_config",),
        ("0.26.0",),
    ),
    Symbol("vllm.v1.kv_cache_interface", "FullAttentionSpec.merge", ("specs",)),
    Symbol(
        "vllm.v1.kv_cache_interface", "FullAttentionSpec.real_page_size_bytes", None, ("0.26.0",)
    ),
    Symbol("vllm.v1.attention.backend", "AttentionMetadataBuilder.build", ("common_prefix_len",)),
    Symbol("vllm.v1.attention.backend", "AttentionBackend.forward_includes_kv_cache_update"),
    Symbol("vllm.v1.attention.backend", "CommonAttentionMetadata.__init__", ("slot_mapping",)),
    Symbol("vllm.v1.attention.backend", "MultipleOf"),
    Symbol("vllm.v1.kv_cache_interface", "KVCacheLayout", None, ("0.29.0",)),
    Symbol(
        "vllm.v1.worker.gpu_model_runner", "GPUModelRunner.execute_model", ("scheduler_output",)
    ),
    Symbol(
        "vllm.v1.worker.gpu.model_runner",
        "GPUModelRunner.execute_model",
        ("scheduler_output",),
    ),
    Symbol("vllm.v1.worker.gpu.model_runner", "GPUModelRunner.prepare_attn", ("input_batch",)),
    Symbol("vllm.v1.attention.backend", "AttentionCGSupport"),
    Symbol(
        "vllm.v1.worker.gpu_input_batch", "InputBatch.make_lora_inputs", ("num_scheduled_tokens",)
    ),
)


def used() -> tuple[Symbol, ...]:
    """The symbols that the plugin uses in the installed vLLM."""
    return tuple(symbol for symbol in SYMBOLS if _version() in symbol.versions)


def missing(symbols: Sequence[Symbol] | None = None) -> list[str]:
    """What has changed: one line for each symbol that is gone or takes other parameters.

    Args:
        symbols: the symbols to look at; those used in the installed vLLM when left out.
    """
    symbols = used() if symbols is None else symbols
    return [f"{symbol} {why}" for symbol in symbols if (why := _why(symbol)) is not None]


def drift() -> str | None:
    """Why the plugin cannot work with the installed vLLM; None when it can."""
    version = _version()
    if version not in VERSIONS:
        return (
            f"lragent knows vLLM {', '.join(VERSIONS)}, and this is vLLM {version}; install a "
            "known one, another lragent, or leave the option out"
        )
    changed = missing()
    if changed:
        return (
            f"this vLLM {version} is not the one that lragent knows: {'; '.join(changed)}; install "
            f"vLLM {' or '.join(VERSIONS)}"
        )
    return None


def _version() -> str:
    from vllm.version import __version__  # pyright: ignore[reportMissingImports]

    return str(__version__).partition("+")[0]


def _why(symbol: Symbol) -> str | None:
    try:
        found: Any = importlib.import_module(symbol.module)
        for part in symbol.name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError):
        return "is gone"
    if found is getattr(object, symbol.name.rpartition(".")[2], None):
        return "is gone"  # what every class has
    if symbol.parameters is None:
        return None
    known = inspect.signature(found).parameters
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in known.values()):
        return None
    lost = [name for name in symbol.parameters if name not in known]
    return f"takes no {', '.join(lost)}" if lost else None
