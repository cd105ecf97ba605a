"""Which vLLM engines are started, and with what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .policies import PLUGIN, STOCK

MODES = ("full", "piecewise", "eager")
RUNNERS = ("v2", "v1")
POLICIES = ("isolated", "base+lr", "base")
CAPTURED = [1, 2, 4, 8, 16]
KV_BYTES, TINY_KV_BYTES = 1 << 30, 16 << 20
GPU_PAGE, CPU_PAGE = 16, 32  # 32 is the smallest that stock vLLM takes on a CPU


@dataclass(frozen=True)
class Case:
    """One vLLM engine: ``stock`` or a policy of the plugin, graphs, and model runner."""

    policy: str
    mode: str
    runner: str

    @property
    def name(self) -> str:
        """As in the result."""
        return f"{self.policy}, {self.mode}, {self.runner}"


def cases_of(policies: Sequence[str], modes: Sequence[str], runners: Sequence[str]) -> list[Case]:
    """Stock in the first and the last mode, then each policy in every mode under every runner."""
    stock = [Case(STOCK, mode, runners[0]) for mode in dict.fromkeys((modes[0], modes[-1]))]
    plugin = [
        Case(policy, mode, runner)
        for policy in PLUGIN
        if policy in policies
        for runner in runners
        for mode in modes
    ]
    return stock + plugin


def settings_of(case: Case, on_gpu: bool, tiny: bool) -> dict[str, Any]:
    """Arguments of ``vllm.LLM``.

    The cache's size is given, since vLLM cannot measure free memory while other engines start.
    """
    common = {
        "dtype": "bfloat16" if on_gpu else "float32",
        "block_size": GPU_PAGE if on_gpu else CPU_PAGE,
        "max_model_len": 2048,
        "max_num_seqs": 16,
        "max_num_batched_tokens": 2048,
        "kv_cache_memory_bytes": TINY_KV_BYTES if tiny else KV_BYTES,
    }
    if on_gpu:
        common["gpu_memory_utilization"] = 0.3
    if case.mode == "eager":
        return common | {"enforce_eager": True}
    graphs = {"full": "FULL_AND_PIECEWISE", "piecewise": "PIECEWISE"}[case.mode]
    return common | {
        "compilation_config": {"cudagraph_mode": graphs, "cudagraph_capture_sizes": CAPTURED}
    }


def embedded_settings(on_gpu: bool, tiny: bool) -> dict[str, Any]:
    """Arguments of ``lragent.Engine`` that agree with `settings_of`."""
    return {
        "device": "cuda" if on_gpu else "cpu",
        "dtype": "bfloat16" if on_gpu else "float32",
        "page_size": GPU_PAGE if on_gpu else CPU_PAGE,
        "kv_bytes": 2 * (TINY_KV_BYTES if tiny else KV_BYTES),
        "max_batch_tokens": 2048,
        "max_batch_size": 64,
    }
