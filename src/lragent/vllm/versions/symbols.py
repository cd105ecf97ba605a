"""What the plugin uses of vLLM: what it calls, and what it reads.

What it replaces stands with the replacements (`patching.Hook`, subclasses), see `guard`.
"""

from __future__ import annotations

from typing import NamedTuple


class Symbol(NamedTuple):
    """Something that the plugin calls or derives from.

    Attributes:
        module: where it lives.
        name: attribute path in the module.
        parameters: names of parameters that the plugin passes; None when it calls nothing.
    """

    module: str
    name: str
    parameters: tuple[str, ...] | None = None

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


class Fields(NamedTuple):
    """Attributes of a class's objects that the plugin reads."""

    module: str
    name: str
    fields: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


_KV_MANAGER = "vllm.v1.core.kv_cache_manager"
_BACKEND = "vllm.v1.attention.backend"
_PUNICA = "vllm.lora.punica_wrapper.punica_base"

SYMBOLS: tuple[Symbol, ...] = (
    Symbol("vllm.config", "get_current_vllm_config", ()),
    Symbol(_KV_MANAGER, "KVCacheManager.create_kv_cache_blocks", ("blocks",)),
    Symbol(_KV_MANAGER, "KVCacheManager.get_blocks", ("request_id",)),
    Symbol(_KV_MANAGER, "KVCacheManager.record_prefix_cache_stats", ("request", "num_hits")),
    Symbol(
        "vllm.v1.core.kv_cache_coordinator",
        "KVCacheCoordinator.find_longest_cache_hit",
        ("block_hashes", "max_cache_hit_length"),
    ),
    Symbol(
        "vllm.v1.core.kv_cache_utils",
        "generate_block_hash_extra_keys",
        ("request", "start_token_idx", "end_token_idx", "start_mm_idx"),
    ),
    Symbol("vllm.v1.core.block_pool", "BlockPool.evict_blocks", ("block_ids",)),
    Symbol("vllm.v1.core.block_pool", "BlockPool.get_num_free_blocks", ()),
    Symbol("vllm.exceptions", "LoRAAdapterNotFoundError", ("lora_name", "lora_path")),
    Symbol("vllm.lora.utils", "get_adapter_absolute_path", ("lora_path",)),
    Symbol(
        "vllm.v1.engine.core_client",
        "AsyncMPClient._call_utility_async",
        ("method", "engine"),
    ),
    Symbol("vllm.v1.engine.llm_engine", "LLMEngine.abort_request", ("request_ids",)),
    Symbol(
        "vllm.renderers.base",
        "BaseRenderer._build_tokens_prompt",
        ("token_ids", "prompt"),
    ),
    Symbol("vllm.renderers.base", "BaseRenderer._wants_offsets", ("prompt", "params")),
    Symbol("vllm.renderers.base", "BaseRenderer.get_tokenizer", ()),
    Symbol("vllm.renderers.params", "TokenizeParams.get_encode_kwargs", ()),
    Symbol("vllm.v1.request", "Request.get_skip_reading_prefix_cache", ("self",)),
    Symbol(
        "vllm.lora.request",
        "LoRARequest",
        ("lora_name", "lora_int_id", "lora_path", "base_model_name"),
    ),
    Symbol("vllm.lora.layers", "MergedQKVParallelLinearWithLoRA._get_quant_method", ()),
    Symbol("vllm.lora.layers", "MergedColumnParallelLinearWithLoRA"),
    Symbol("vllm.lora.layers", "RowParallelLinearWithLoRA"),
    Symbol(
        "vllm.lora.layers",
        "LoRAMapping.__init__",
        ("index_mapping", "prompt_mapping", "is_prefill"),
    ),
    Symbol(
        "vllm.model_executor.layers.rotary_embedding",
        "get_rope",
        ("head_size", "max_position", "rope_parameters", "dtype"),
    ),
    Symbol("vllm.lora.utils", "is_in_target_modules", ("module_name", "target_modules")),
    Symbol(
        "vllm.lora.peft_helper",
        "PEFTHelper.from_local_dir",
        ("lora_path", "max_position_embeddings"),
    ),
    Symbol("vllm.lora.peft_helper", "PEFTHelper.validate_legal", ("lora_config",)),
    Symbol(_PUNICA, "PunicaWrapperBase.add_shrink", ("y", "x", "lora_a_stacked", "scale")),
    Symbol(_PUNICA, "PunicaWrapperBase.add_expand", ("y", "x", "lora_b_stacked", "output_slices")),
    Symbol(_BACKEND, "AttentionCGSupport.ALWAYS"),
    Symbol(_BACKEND, "AttentionCGSupport.UNIFORM_BATCH"),
    Symbol(
        _BACKEND,
        "AttentionMetadataBuilder.get_cudagraph_support",
        ("vllm_config", "kv_cache_spec"),
    ),
    Symbol(_BACKEND, "AttentionType.DECODER"),
    Symbol(_BACKEND, "MultipleOf", ("base",)),
    Symbol(_BACKEND, "AttentionBackend.forward_includes_kv_cache_update"),
    Symbol("vllm.v1.attention.backends.registry", "register_backend", ("backend", "class_path")),
    Symbol("vllm.v1.kv_cache_interface", "FullAttentionSpec.merge", ("specs",)),
    Symbol("vllm.v1.kv_cache_interface", "KVCacheLayout.LBHNC"),
)

FIELDS: tuple[Fields, ...] = (
    Fields(
        "vllm.v1.request",
        "Request",
        (
            "request_id", "num_tokens", "all_token_ids", "block_hashes", "cache_salt",
            "lora_request", "mm_features", "num_computed_tokens", "num_preemptions",
            "num_prompt_tokens", "prompt_embeds", "skip_reading_prefix_cache",
        ),
    ),
    Fields("vllm.distributed.kv_events", "BlockStored", ("lora_id", "lora_name")),
    Fields("vllm.v1.engine", "EngineCoreRequest", ("lora_request", "resumable")),
    Fields(
        "vllm.lora.request",
        "LoRARequest",
        ("lora_name", "lora_int_id", "lora_path", "base_model_name", "load_inplace"),
    ),
    Fields("vllm.lora.peft_helper", "PEFTHelper", ("vllm_lora_scaling_factor",)),
    Fields(_KV_MANAGER, "KVCacheManager",
           ("block_pool", "coordinator", "enable_caching", "kv_cache_config")),
    Fields(_KV_MANAGER, "KVCacheBlocks", ("blocks",)),
    Fields("vllm.v1.core.block_pool", "BlockPool", ("blocks", "hash_block_size")),
    Fields("vllm.v1.core.kv_cache_utils", "KVCacheBlock",
           ("block_id", "block_hash")),
    Fields("vllm.v1.core.sched.scheduler", "Scheduler", ("kv_cache_manager", "requests")),
    Fields("vllm.v1.engine.core_client", "MPClient", ("core_engines",)),
    Fields("vllm.v1.core.sched.output", "SchedulerOutput", ("finished_req_ids",)),
    Fields("vllm.v1.engine.core", "EngineCore",
           ("model_executor", "request_block_hasher", "scheduler")),
    Fields("vllm.v1.kv_cache_interface", "KVCacheConfig", ("kv_cache_groups",)),
    Fields("vllm.v1.kv_cache_interface", "KVCacheGroupSpec", ("kv_cache_spec", "layer_names")),
    Fields(
        "vllm.v1.kv_cache_interface",
        "FullAttentionSpec",
        (
            "block_size", "dtype", "head_size", "num_head_slots", "num_kv_heads",
            "page_size_bytes", "state_content_bytes",
        ),
    ),
    Fields(
        _BACKEND,
        "CommonAttentionMetadata",
        (
            "block_table_tensor", "max_query_len", "max_seq_len", "num_actual_tokens", "num_reqs",
            "query_start_loc", "query_start_loc_cpu", "seq_lens", "seq_lens_cpu_upper_bound",
            "slot_mapping",
        ),
    ),
    Fields("vllm.v1.worker.gpu_model_runner", "GPUModelRunner", ("input_batch", "vllm_config")),
    Fields("vllm.v1.worker.gpu.model_runner", "GPUModelRunner", ("vllm_config",)),
    Fields("vllm.v1.worker.gpu_input_batch", "InputBatch",
           ("num_computed_tokens_cpu", "num_reqs", "req_ids")),
    Fields("vllm.v1.worker.gpu.input_batch", "InputBatch",
           ("num_computed_tokens_np", "num_reqs", "num_scheduled_tokens", "req_ids")),
    Fields("vllm.lora.model_manager", "LoRAModelManager", ("punica_wrapper_mapping",)),
    Fields(
        "vllm.lora.ops.triton_ops.lora_kernel_metadata",
        "LoRAKernelMeta",
        (
            "active_lora_ids", "captured_lora_counts", "lora_token_start_loc", "no_lora_flag_cpu",
            "num_active_loras_cpu", "num_tokens_per_lora", "token_indices_sorted_by_lora_ids",
            "token_lora_mapping",
        ),
    ),
    Fields(
        _PUNICA,
        "PunicaWrapperBase",
        (
            "_embeddings_indices", "_lora_indices_per_batch", "_sampler_indices",
            "_sampler_indices_padded", "_seq_lengths", "_seq_start_locs", "_token_lora_indices",
            "indices_len", "is_prefill",
        ),
    ),
    Fields("vllm.lora.punica_wrapper.punica_gpu", "PunicaWrapperGPU",
           ("prompt_mapping_meta", "token_mapping_meta")),
    Fields(
        "vllm.entrypoints.openai.models.serving",
        "OpenAIServingModels",
        ("engine_client", "lora_requests"),
    ),
)  # fmt: skip
