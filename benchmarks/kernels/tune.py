"""Find the fastest tiles on this GPU and write them to the table of its architecture.

    python -m benchmarks.kernels.tune                        # shapes of Llama 3.1 8B
    python -m benchmarks.kernels.tune --heads 9 --kv-heads 3 --head-dim 64 --rank 8

Every candidate is timed on the same problems and judged by its geometric mean. Entries of other
shapes in the table are kept.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from benchmarks.kernels.timing import Case, Pool, time_calls
from triton.runtime.errors import OutOfResources

from lragent.attention.gpu.calls import ALL
from lragent.attention.gpu.launch import prepare_attend
from lragent.attention.gpu.prefill import launch_dense, prepare_expand
from lragent.attention.gpu.tiles import (
    NARROW,
    TOKEN_ROWS,
    Tile,
    architecture,
    multiprocessors,
    table_kind,
    tile_key,
)

_CANDIDATES = {
    "decode": [
        Tile(16, n, warps, stages, resident)
        for n in (16, 32, 64)
        for warps in (2, 4)
        for stages in (2, 3)
        for resident in (2, 4)
    ],
    "many": [
        Tile(128, 128, 8, 3, 1),
        Tile(128, 128, 8, 2, 1),
        Tile(128, 64, 8, 3, 1),
        Tile(128, 64, 8, 2, 1),
        Tile(64, 64, 4, 3, 1),
        Tile(64, 64, 4, 2, 1),
    ],
    "few": [Tile(64, 64, 4, 3, 2), Tile(64, 64, 4, 2, 2), Tile(64, 32, 4, 3, 2)],
}
_CANDIDATES["dense"] = [*_CANDIDATES["many"], Tile(64, 128, 4, 3, 1)]
_CANDIDATES["dense-few"] = _CANDIDATES["dense"]
_CANDIDATES["decode-keys"] = [
    Tile(NARROW, tokens, tokens // TOKEN_ROWS, stages, resident)
    for tokens, stages, resident in (
        (16, 2, 8), (16, 2, 6), (16, 3, 8), (32, 2, 4), (32, 3, 4), (32, 2, 3), (64, 2, 2)
    )
]  # fmt: skip
# Key LoRA keeps below 64 rows, see `fitting_tile`.
_KEY_CANDIDATES = [Tile(32, 64, 4, 2, 1), Tile(32, 32, 4, 2, 1), Tile(32, 32, 4, 3, 1)]
_PROBLEMS = {
    "decode": [(1, 1, 8192), (16, 1, 1024), (16, 1, 8192), (64, 1, 4096)],
    "few": [(16, 16, 2048), (4, 32, 8192)],
    "many": [(1, 256, 8192), (1, 2048, 8192), (4, 1024, 1024)],
    "dense": [(1, 2048, 8192), (1, 8192, 8192)],
    "dense-few": [(1, 256, 8192), (1, 256, 32768)],
}


def attend(case: Case, tile: Tile, decode: bool) -> None:
    """One call of the paged kernel with this tile and the rule's splits."""
    batch = case.batch
    call = prepare_attend(
        case.q, case.out, batch.cu_seqlens_q, case.layer, case.sequences, case.scale, 0,
        batch.max_seq, decode, 1, ALL, tile,
    )  # fmt: skip
    assert call is not None, "a timed batch has queries"
    call(case.q, case.out, case.layer)


def dense(case: Case, tile: Tile) -> Callable[[], None]:
    """A call of the dense kernel with this tile over the case's expanded context."""
    batch, pages = case.batch, case.pool.pages
    tokens = sum(batch.host_seq_lens)
    starts = torch.zeros(batch.num_sequences + 1, dtype=torch.int32, device=case.q.device)
    torch.cumsum(batch.seq_lens, 0, dtype=torch.int32, out=starts[1:])
    k, v = (
        torch.empty(tokens, pages.kv_heads, pages.head_dim, dtype=case.q.dtype, device="cuda")
        for _ in range(2)
    )
    prepare_expand(k, v, starts, case.layer, case.sequences)(case.layer)
    return partial(
        launch_dense, case.q, case.out, k, v, batch.cu_seqlens_q, starts, case.scale, 0, tile
    )


def best_tile(kind: str, pool: Pool) -> Tile:
    """The candidate with the smallest geometric mean over the kind's problems."""
    group = pool.heads // pool.pages.kv_heads
    rows = max(16, 1 << (group - 1).bit_length())
    candidates = _CANDIDATES[_kind(kind, pool)]
    if pool.tables.k_rank and kind in ("few", "many"):
        candidates = _KEY_CANDIDATES
    results: list[tuple[float, Tile]] = []
    for candidate in candidates:
        tile = replace(candidate, block_m=rows) if kind == "decode" else candidate
        if tile.block_m < rows:
            continue
        logs = []
        try:
            for count, queries, context in _PROBLEMS[kind]:
                cases = pool.cases([queries] * count, [context] * count)
                if kind.startswith("dense"):
                    calls = [dense(case, tile) for case in cases[:2]]
                else:
                    calls = [partial(attend, case, tile, kind == "decode") for case in cases]
                logs.append(math.log(time_calls(calls, 5).median))
        except OutOfResources:
            continue
        results.append((sum(logs) / len(logs), candidate))
        print(f"  {kind} {candidate}: {math.exp(results[-1][0]):.1f} us", flush=True)
    return min(results, key=lambda result: result[0])[1]


def _kind(kind: str, pool: Pool) -> str:
    """The kind in the tables of a pool's shape."""
    tables, pages = pool.tables, pool.pages
    group = pool.heads // pages.kv_heads
    return table_kind(kind, pages.k.dtype, pages.head_dim, group, tables.v_rank, tables.k_rank)


def main() -> None:
    """Tune one shape and update the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--heads", type=int, default=32)
    parser.add_argument("--kv-heads", type=int, default=8)
    parser.add_argument("--head-dim", type=int, default=128)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--key-lora", action="store_true", help="tune for LoRA on k_proj too")
    parser.add_argument("--dtype", choices=("bfloat16", "float16"), default="bfloat16")
    parser.add_argument("--kinds", nargs="+", choices=list(_PROBLEMS), default=list(_PROBLEMS))
    options = parser.parse_args()
    device = torch.device("cuda", torch.cuda.current_device())
    tables = Path(__file__).parents[2] / "src/lragent/attention/gpu/tables"
    path = tables / f"{architecture(device)}.json"
    table: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {"tiles": {}}
    table["device"] = f"{torch.cuda.get_device_name()}, {multiprocessors(device)} multiprocessors"
    dtype = getattr(torch, options.dtype)
    pool = Pool(
        1 << 20,
        heads=options.heads,
        kv_heads=options.kv_heads,
        head_dim=options.head_dim,
        v_rank=options.rank,
        k_rank=options.rank if options.key_lora else 0,
        dtype=dtype,
    )
    for kind in options.kinds:
        rank = 0 if kind.startswith("dense") else options.rank
        keys = options.key_lora and rank > 0
        key = tile_key(_kind(kind, pool), dtype, options.head_dim, rank, keys)
        tile = best_tile(kind, pool)
        table["tiles"][key] = asdict(tile)
        print(f"{key}: {tile}", flush=True)
    table["tiles"] = dict(sorted(table["tiles"].items()))
    path.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
