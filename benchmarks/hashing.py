"""Host time of hashing a handed-over prompt: vLLM's hasher, and `HashChains` around it.

    python -m benchmarks.hashing

On a CPU, in an environment with vLLM. Writes benchmarks/results/hashing.json with medians: the
prompt was sent before, by another adapter of the group, and now comes with 32 more tokens.
"""

# pyright: reportMissingImports=false

from __future__ import annotations

import random
import statistics
import time
from types import SimpleNamespace
from typing import Any

from benchmarks.common.files import RESULTS, save
from benchmarks.common.machine import checked_out_commit, hardware, versions
from benchmarks.common.sources import ROOT

from lragent.vllm.core.hash_chains import HashChains
from lragent.vllm.core.request_keys import ATTRIBUTE, lora_keys

FILE = RESULTS / "hashing.json"
PAGE = 16
CONTEXTS = (1024, 8192, 32768, 131072)
REPEATS = 15


def main() -> None:
    """Measure, and write the result file."""
    from vllm import SamplingParams
    from vllm.utils.hashing import sha256
    from vllm.v1.core import kv_cache_utils
    from vllm.v1.request import Request

    kv_cache_utils.init_none_hash(sha256)
    kv_cache_utils._gen_lora_extra_hash_keys = lora_keys(kv_cache_utils._gen_lora_extra_hash_keys)
    stock = kv_cache_utils.get_request_block_hasher(PAGE, sha256)
    chains = HashChains(stock, PAGE)
    choice, binding = random.Random(0), SimpleNamespace(keys=["lragent:group"])

    def milliseconds(hasher: Any, tokens: list[int]) -> float:
        request = Request("r", tokens, SamplingParams(max_tokens=1), None)
        setattr(request, ATTRIBUTE, binding)
        begin = time.perf_counter()
        request.block_hashes.extend(hasher(request))
        return 1e3 * (time.perf_counter() - begin)

    rows = []
    for context in CONTEXTS:
        prompt = choice.choices(range(128_000), k=context)
        times: tuple[list[float], list[float]] = ([], [])
        milliseconds(chains.hashes, prompt)
        for _ in range(REPEATS):
            longer = [*map(int, map(str, prompt)), *choice.choices(range(128_000), k=32)]
            for hasher, found in zip((stock, chains.hashes), times, strict=True):
                found.append(milliseconds(hasher, longer))
        vllm, lragent = (statistics.median(found) for found in times)
        rows.append({"context": context, "vllm_ms": vllm, "lragent_ms": lragent})
    save(
        FILE,
        {
            "commit": checked_out_commit(ROOT), "versions": versions(), "hardware": hardware(),
            "block": PAGE, "repeats": REPEATS, "rows": rows,
        },
    )  # fmt: skip


if __name__ == "__main__":
    main()
