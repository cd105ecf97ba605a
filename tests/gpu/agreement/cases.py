"""Which vLLM engines are started, and with what."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

STOCK = "stock"
MODES = ("full", "piecewise", "eager")
RUNNERS = ("v2", "v1")
POLICIES = ("isolated", "base+lr", "base", "neutral")
CAPTURED = [1, 2, 4, 8, 16]
KV_BYTES = 1 << 30
PAGE = 16


@dataclass(frozen=True)
class Case:
    """One vLLM engine: ``stock`` or a policy of the plugin, graphs, and model runner."""

    policy: str
    mode: str
    runner: str

    @property
    def name(self) -> str:
        """As test id and in messages."""
        return f"{self.policy}, {self.mode}, {self.runner}"


STOCK_CASES = [Case(STOCK, "full", "v2"), Case(STOCK, "eager", "v2")]
PLUGIN_CASES = [
    Case(policy, mode, runner) for policy in POLICIES for runner in RUNNERS for mode in MODES
]


def settings_of(case: Case) -> dict[str, Any]:
    """Arguments of ``vllm.LLM``.

    The cache's size is given, since vLLM cannot measure free memory while other engines start.
    """
    common = {
        "dtype": "bfloat16",
        "block_size": PAGE,
        "max_model_len": 2048,
        "max_num_seqs": 16,
        "max_num_batched_tokens": 2048,
        "kv_cache_memory_bytes": KV_BYTES,
        "gpu_memory_utilization": 0.2,
    }
    if case.mode == "eager":
        return common | {"enforce_eager": True}
    graphs = {"full": "FULL_AND_PIECEWISE", "piecewise": "PIECEWISE"}[case.mode]
    return common | {
        "compilation_config": {"cudagraph_mode": graphs, "cudagraph_capture_sizes": CAPTURED}
    }


EMBEDDED_SETTINGS: dict[str, Any] = {
    "device": "cuda",
    "dtype": "bfloat16",
    "page_size": PAGE,
    "kv_bytes": 2 * KV_BYTES,
    "max_num_batched_tokens": 2048,
    "max_num_seqs": 64,
}
"""Arguments of ``lragent.Engine`` that agree with `settings_of`."""
