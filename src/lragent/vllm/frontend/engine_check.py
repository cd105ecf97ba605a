"""Refuses engines whose features the shared cache cannot go along with, before they start."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from lragent.vllm.config import Options
from lragent.vllm.errors import PluginError

ARCHITECTURES = (
    "LlamaForCausalLM",
    "MistralForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
)
MIN_RANK = 8
LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""Modules of the known families whose adapters are served. Those of embeddings and of the output
head are refused, so vLLM need not run their LoRA on zeros."""

Check = tuple[Callable[[Any], bool], str]


def _at(config: Any, path: str) -> Any:
    """A nested attribute; None when some part of the path is missing."""
    for name in path.split("."):
        config = getattr(config, name, None)
    return config


def _above(path: str, most: int = 1) -> Callable[[Any], bool]:
    return lambda config: (_at(config, path) or most) > most


def _set(path: str) -> Callable[[Any], bool]:
    return lambda config: bool(_at(config, path))


def _other_cache_dtype(config: Any) -> bool:
    dtype = str(_at(config, "cache_config.cache_dtype") or "auto")
    return dtype not in ("auto", "bfloat16", "float16", "float32")


_REFUSED: tuple[Check, ...] = (
    (lambda c: _at(c, "lora_config") is None, "LoRA is off; add --enable-lora"),
    (_set("lora_config.fully_sharded_loras"), "--fully-sharded-loras; leave it out"),
    (
        lambda c: 0 < (_at(c, "lora_config.max_lora_rank") or MIN_RANK) < MIN_RANK,
        f"--max-lora-rank below {MIN_RANK}; use {MIN_RANK} (smaller adapters fit too)",
    ),
    (_set("speculative_config"), "speculative decoding; leave it out"),
    (_other_cache_dtype, "a quantised KV cache; use --kv-cache-dtype auto"),
    (_set("kv_transfer_config"), "a KV connector (offloading, P/D, LMCache); leave it out"),
    (_set("ec_transfer_config"), "an encoder cache connector; leave it out"),
    (_set("cache_config.cpu_offload_gb"), "--cpu-offload-gb; leave it out"),
    (_set("kv_events_config.enable_kv_cache_events"), "KV cache events; switch them off"),
    (_above("parallel_config.decode_context_parallel_size"), "decode context parallelism"),
    (_above("parallel_config.prefill_context_parallel_size"), "prefill context parallelism"),
    (_above("parallel_config.pipeline_parallel_size"), "pipeline parallelism; use TP"),
    (_set("parallel_config.enable_dbo"), "--enable-dbo; leave it out"),
    (
        lambda c: _at(c, "model_config.disable_cascade_attn") is False,
        "cascade attention; leave it off",
    ),
    (
        lambda c: _at(c, "scheduler_config.policy") == "priority",
        "priority scheduling; use --scheduling-policy fcfs",
    ),
    (
        lambda c: _at(c, "model_config.runner_type") not in (None, "generate"),
        "a pooling model; serve a model that generates",
    ),
    (
        lambda c: _at(c, "model_config.model_impl") in ("transformers", "terratorch"),
        "the transformers model implementation; use --model-impl vllm",
    ),
    (
        lambda c: (_at(c, "cache_config.block_size") or 16) % 16 != 0,
        "a block size that is no multiple of 16; use --block-size 16",
    ),
)


def check_engine(vllm_config: Any, options: Options) -> None:
    """Refuse unsupported features by name, all at once.

    Raises:
        PluginError: one line a feature.
    """
    found = [what for refuses, what in _REFUSED if refuses(vllm_config)]
    if os.environ.get("VLLM_LORA_ENABLE_DUAL_STREAM", "0").lower() not in ("0", "", "false"):
        found.append("VLLM_LORA_ENABLE_DUAL_STREAM; unset it")
    model = _at(vllm_config, "model_config.architecture")
    if model is not None and model not in ARCHITECTURES:
        found.append(f"the model family {model}; known: {', '.join(ARCHITECTURES)}")
    if found:
        raise PluginError(
            "lragent (additional_config) cannot go along with:\n  - " + "\n  - ".join(found)
        )
