"""Time the Triton kernels against FlashAttention 3 and write benchmarks/results/kernels-<gpu>.json.

Run on a GPU from the repository root:

    python -m benchmarks.kernels.run --commit "$(git rev-parse HEAD)"
    python -m benchmarks.kernels.figure benchmarks/results/kernels-<gpu>.json

No number is written unless the kernels' tests pass on this GPU first. Shape: 32 query heads, 8 KV
heads, head size 128, bf16, pages of 16 tokens holding K, V and one LR slot. Times are medians
over replays of a CUDA graph of calls that rotate through more data than L2 holds. The peer reads
the same pages in the same run: FlashAttention 3 without any LoRA, scheduled outside the timed
region where that is faster (as vLLM does), or PyTorch's SDPA where it is not installed.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import triton
from benchmarks.common.files import file_name
from benchmarks.kernels.cache import cache_rows, layer_rows, times
from benchmarks.kernels.peer import peer_calls
from benchmarks.kernels.timing import Case, Pool, time_calls, time_together

from lragent.attention.gpu import fa3
from lragent.attention.gpu.backend import attention_calls

ROOT = Path(__file__).parent.parent.parent
HEADS, KV_HEADS, HEAD_DIM = 32, 8, 128
TOKENS = 1 << 21  # of the cache: the largest batch fills it

DECODE = [(batch, context) for batch in (1, 4, 16, 64) for context in (1024, 8192, 32768)]
DECODE_OTHER = [(1, 8192), (4, 32768), (16, 1024), (16, 8192), (16, 32768), (64, 8192)]
PREFILL = [
    (256, 1024), (256, 8192), (256, 32768), (512, 8192), (512, 32768), (1024, 8192),
    (2048, 2048), (2048, 8192), (2048, 32768), (4096, 32768), (8192, 8192), (8192, 32768),
]  # fmt: skip
PREFILL_OTHER = [(256, 8192), (512, 8192), (2048, 8192), (2048, 32768), (8192, 8192)]
MIXED = [
    ([1] * 31 + [2048], [4096] * 31 + [8192]),
    ([1] * 8 + [512] * 4, [8192] * 8 + [4096] * 4),
    ([1] * 16 + [256] * 2 + [8192], [2048] * 16 + [16384] * 2 + [8192]),
]


def ours(case: Case) -> Callable[[], None]:
    """Our call, planned beforehand as an engine does once for all layers."""
    q, out, layer = case.q, case.out, case.layer
    calls = attention_calls(q, out, layer, case.batch, case.scale, 0)

    def attend() -> None:
        for call in calls:
            call(q, out, layer)

    return attend


def ceilings() -> dict[str, float]:
    """Bytes/s of reading and of copying, FLOP/s of a large bf16 matrix product, on random data."""
    x = torch.empty(1 << 30, dtype=torch.bfloat16, device="cuda").normal_()
    y = torch.empty_like(x)
    copy = 4 * (1 << 30) / time_calls([lambda: y.copy_(x)]).median * 1e6
    words = x.view(torch.int32)
    read = 2 * (1 << 30) / time_calls([lambda: words.amax()]).median * 1e6
    a = torch.randn(8192, 8192, dtype=torch.bfloat16, device="cuda")
    matrix = 2 * 8192**3 / time_calls([lambda: a @ a]).median * 1e6
    return {
        "copy_bytes_per_s": copy,
        "read_bytes_per_s": read,
        "matrix_flop_per_s": matrix,
    }


def attention_row(
    kind: str, pool: Pool, queries: list[int], contexts: list[int], top: dict[str, float]
) -> dict[str, Any]:
    """Time one batch, ours and the peer's, and count its bytes and operations."""
    cases = pool.cases(queries, contexts)
    variants = [[ours(case) for case in cases]]
    variants += [list(calls) for calls in zip(*(peer_calls(case) for case in cases), strict=True)]
    mine, *peers = time_together(variants)
    peer = min(peers, key=lambda timing: timing.median)
    tables = pool.tables
    moved = sum(contexts) * pool.token_bytes + 4 * sum(queries) * HEADS * HEAD_DIM
    work = sum(
        4.0 * HEADS * HEAD_DIM * new * (total - (new - 1) / 2)
        for new, total in zip(queries, contexts, strict=True)
    )
    floor = max(
        moved / max(top["read_bytes_per_s"], top["copy_bytes_per_s"]),
        work / top["matrix_flop_per_s"],
    )
    row = {
        "kind": kind,
        "batch": len(queries),
        "context": max(contexts),
        "query": max(queries),
        "rank": max(tables.v_rank, tables.k_rank),
        "kv_lora": tables.k_rank > 0,
        "dtype": "bfloat16",
        "bytes": moved,
        "flop": work,
        **times(mine),
        "peer": "FlashAttention 3" if fa3.find(cases[0].q.device) else "SDPA",
        "peer_us": round(peer.median, 2),
        "ratio": round(mine.median / peer.median, 4),
        "ceiling_share": round(floor * 1e6 / mine.median, 4),
    }
    print(
        f"{kind:12} b{row['batch']:<3} q{row['query']:<5} c{row['context']:<6} r{row['rank']:<3}"
        f" {row['ours_us']:9.1f} us  peer {row['peer_us']:9.1f}  ratio {row['ratio']:.3f}"
        f"  ceiling {row['ceiling_share']:.2f}",
        flush=True,
    )
    return row


def attention_rows(top: dict[str, float]) -> list[dict[str, Any]]:
    """Decode, prefill and mixed batches over the ranks, with and without key LoRA."""
    rows = []
    for rank, key_rank in ((16, 0), (8, 0), (32, 0), (64, 0), (16, 16)):
        pool = Pool(TOKENS, v_rank=rank, k_rank=key_rank)
        full = (rank, key_rank) == (16, 0)
        for batch, context in DECODE if full else DECODE_OTHER:
            rows.append(attention_row("decode", pool, [1] * batch, [context] * batch, top))
        if full or key_rank:
            for query, context in PREFILL if full else PREFILL_OTHER:
                rows.append(attention_row("prefill", pool, [query], [context], top))
        if full:
            for queries, contexts in MIXED:
                rows.append(attention_row("mixed", pool, queries, contexts, top))
            rows += without_fa3(pool, top)
        del pool
        torch.cuda.empty_cache()
    return rows


def without_fa3(pool: Pool, top: dict[str, float]) -> list[dict[str, Any]]:
    """Prefill as it runs where FlashAttention 3 is not installed, against FlashAttention 3."""
    found = fa3.find
    rows = []
    for query, context in PREFILL_OTHER:
        row = attention_row("prefill", pool, [query], [context], top)
        cases = pool.cases([query], [context])
        fa3.find = lambda device: None  # type: ignore[assignment]
        try:
            mine = time_calls([ours(case) for case in cases])
        finally:
            fa3.find = found
        row.update(times(mine), ratio=round(mine.median / row["peer_us"], 4))
        row["kind"] = "prefill-without-fa3"
        row["ceiling_share"] = round(row["flop"] / top["matrix_flop_per_s"] * 1e6 / mine.median, 4)
        print(f"  without FA3: {mine.median:.1f} us, ratio {row['ratio']:.3f}", flush=True)
        rows.append(row)
    return rows


def mean(rows: list[dict[str, Any]], **wanted: object) -> dict[str, float]:
    """Geometric mean and largest ratio of the rows with these values."""
    ratios = [
        row["ratio"]
        for row in rows
        if all(row.get(name) == value for name, value in wanted.items())
    ]
    return {
        "mean": round(math.exp(sum(map(math.log, ratios)) / len(ratios)), 4),
        "worst": max(ratios),
    }


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Ratios to the peer, by kind."""
    long = [row for row in rows if row["kind"] in ("prefill", "mixed") and row["query"] >= 2048]
    both = [{**row, "any": True} for row in rows if row["kind"] in ("prefill", "mixed")]
    return {
        **{
            f"decode r{r}": mean(rows, kind="decode", rank=r, kv_lora=False)
            for r in (8, 16, 32, 64)
        },
        "prefill and mixed": mean(both, kv_lora=False),
        "prefill and mixed, 2048 queries and more": mean(long, kv_lora=False),
        "prefill without FA3": mean(rows, kind="prefill-without-fa3"),
        "decode, key and value": mean(rows, kind="decode", kv_lora=True),
        "prefill, key and value": mean(rows, kind="prefill", kv_lora=True),
    }


def run_tests() -> str:
    """The kernels' tests on this GPU; their last line.

    Raises:
        SystemExit: a test failed.
    """
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=short"]
    if subprocess.run([sys.executable, "-c", "import xdist"], capture_output=True).returncode == 0:
        command += ["-n", "12"]
    done = subprocess.run(
        [*command, "tests/attention/gpu"], cwd=ROOT, capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(f"no timing without passing tests:\n{done.stdout[-3000:]}")
    return done.stdout.strip().splitlines()[-1]


def main() -> None:
    """Run everything and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--commit", default="unknown", help="written into the result")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    options = parser.parse_args()
    tests = run_tests()
    print(tests, flush=True)
    top = ceilings()
    print(top, flush=True)
    rows = attention_rows(top) + cache_rows(Pool(TOKENS), top)
    name = torch.cuda.get_device_name()
    driver = subprocess.run(
        ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"],
        capture_output=True,
        text=True,
    )
    found = fa3.find(torch.device("cuda", 0))
    result = {
        "device": name,
        "driver": driver.stdout.splitlines()[0],
        "torch": torch.__version__,
        "triton": triton.__version__,
        "cuda": torch.version.cuda,
        "flash_attention_3": found[0] if found else None,
        "commit": options.commit,
        "tests": tests,
        "shape": {"heads": HEADS, "kv_heads": KV_HEADS, "head_dim": HEAD_DIM, "page_size": 16},
        "ceilings": {key: round(value) for key, value in top.items()},
        "summary": summary(rows),
        "layer": layer_rows(rows),
        "cases": rows,
    }
    print(json.dumps(result["summary"], indent=1))
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / file_name(name, "kernels")).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
