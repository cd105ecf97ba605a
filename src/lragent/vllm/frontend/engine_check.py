"""Refuses engines whose features the shared cache cannot go along with, before they start."""

from __future__ import annotations

import functools
import operator
import os
from collections.abc import Callable
from typing import Any, NamedTuple

from lragent.vllm.errors import PluginError

ARCHITECTURES = (
    "LlamaForCausalLM",
    "MistralForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
    "Qwen3MoeForCausalLM",
    "GraniteForCausalLM",
)
_APART = "vLLM runs it through transformers, without one LoRA layer of q, k and v"
UNSERVED = {
    "Olmo2ForCausalLM": f"OLMo2: {_APART}",
    "Olmo3ForCausalLM": f"OLMo3: {_APART}",
    "Phi3ForCausalLM": "Phi-3 and Phi-4: their adapters have one A for q, k and v together",
}
"""Families that are refused for a reason of their own."""
MIN_RANK = 8
LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""Modules of the known families whose adapters are served. Those of embeddings and of the output
head are refused, so vLLM need not run their LoRA on zeros."""


class Check(NamedTuple):
    """A feature that is refused.

    Attributes:
        path: the field of vLLM's configuration that tells.
        refuses: whether its value is refused.
        what: the feature, and what to do.
    """

    path: str
    refuses: Callable[[Any], bool]
    what: str


def _on(path: str, what: str) -> Check:
    return Check(path, bool, what)


def _many(path: str, what: str) -> Check:
    return Check(path, lambda value: (value or 1) > 1, what)


CHECKS = (
    Check("lora_config", lambda lora: lora is None, "LoRA is off; add --enable-lora"),
    _on("lora_config.fully_sharded_loras", "--fully-sharded-loras; leave it out"),
    Check(
        "lora_config.max_lora_rank",
        lambda rank: rank is not None and rank < MIN_RANK,
        f"--max-lora-rank below {MIN_RANK}; use {MIN_RANK} (smaller adapters fit too)",
    ),
    _on("speculative_config", "speculative decoding; leave it out"),
    Check(
        "cache_config.cache_dtype",
        lambda dtype: str(dtype) not in ("auto", "bfloat16", "float16", "float32"),
        "a quantised KV cache; use --kv-cache-dtype auto",
    ),
    _on(
        "kv_transfer_config",
        "a KV connector (--kv-offloading-size, P/D, LMCache): pages that it loads do not tell "
        "which of their LR slots are filled; leave it out",
    ),
    _on("ec_transfer_config", "an encoder cache connector; leave it out"),
    _on("offload_config.uva.cpu_offload_gb", "--cpu-offload-gb; leave it out"),
    _on("offload_config.prefetch.offload_group_size", "--offload-group-size; leave it out"),
    _many("parallel_config.decode_context_parallel_size", "decode context parallelism"),
    _many("parallel_config.prefill_context_parallel_size", "prefill context parallelism"),
    _many("parallel_config.pipeline_parallel_size", "pipeline parallelism; use TP"),
    _on("parallel_config.use_ubatching", "--enable-dbo or --ubatch-size above 1; leave it out"),
    Check(
        "model_config.disable_cascade_attn",
        lambda off: off is False,
        "cascade attention; leave it off",
    ),
    Check(
        "scheduler_config.policy",
        lambda policy: policy == "priority",
        "priority scheduling; use --scheduling-policy fcfs",
    ),
    Check(
        "model_config.runner_type",
        lambda runner: runner not in (None, "generate"),
        "a pooling model; serve a model that generates",
    ),
    Check(
        "model_config.model_impl",
        lambda impl: impl in ("transformers", "terratorch"),
        "the transformers model implementation; use --model-impl vllm",
    ),
    Check(
        "cache_config.block_size",
        lambda size: (size or 16) % 16 != 0,
        "a block size that is no multiple of 16; use --block-size 16",
    ),
    Check(
        "model_config.architecture",
        lambda name: name is not None and name not in (*ARCHITECTURES, *UNSERVED),
        f"this model family; known: {', '.join(ARCHITECTURES)}",
    ),
    *(
        Check("model_config.architecture", functools.partial(operator.eq, name), why)
        for name, why in UNSERVED.items()
    ),
)

SWITCHES = {
    "VLLM_LORA_ENABLE_DUAL_STREAM": "it runs LoRA apart from the layer that fills the KV cache",
    "VLLM_USE_RUST_FRONTEND": "it handles requests outside of Python, where lragent checks them",
}
"""Environment variables that are refused, and why."""


def check_engine(vllm_config: Any) -> None:
    """Refuse unsupported features by name, all at once.

    Raises:
        PluginError: one line a feature.
    """
    found = [check.what for check in CHECKS if check.refuses(at(vllm_config, check.path))]
    for name, why in SWITCHES.items():
        if os.environ.get(name, "0").lower() not in ("0", "", "false"):
            found.append(f"{name}: {why}; unset it")
    if found:
        raise PluginError(
            "lragent (additional_config) cannot go along with:\n  - " + "\n  - ".join(found)
        )


def at(config: Any, path: str) -> Any:
    """A nested field; None when it, or what it is a field of, is None.

    Raises:
        PluginError: the configuration has no such field, so that what it says is unknown.
    """
    for name in path.split("."):
        if config is None:
            return None
        if not hasattr(config, name):
            raise PluginError(
                f"this vLLM's {type(config).__name__} has no {name}, which lragent must check; "
                "install a vLLM that it knows"
            )
        config = getattr(config, name)
    return config
