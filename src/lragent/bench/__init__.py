"""What a running OpenAI-compatible server gains, or would gain, from a shared KV cache.

Works with any server: stock vLLM, vLLM with the plugin, or another. It only asks for completions.
"""

from lragent.bench.measure import BenchConfig, measure
from lragent.bench.result import BenchResult, Pair, Workflow
from lragent.bench.server import BenchServer, Call
from lragent.bench.verdict import Outcome, Verdict, judge

__all__ = [
    "BenchConfig",
    "BenchResult",
    "BenchServer",
    "Call",
    "Outcome",
    "Pair",
    "Verdict",
    "Workflow",
    "judge",
    "measure",
]
