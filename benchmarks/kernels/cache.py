"""Rows of the kernels benchmark about filling the cache: the write, and the LR projection."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from benchmarks.kernels.timing import Pool, Timing, copies, time_calls, time_together

from lragent.attention.gpu.project import launch_project
from lragent.attention.gpu.write import launch_write

HIDDEN = 4096
TOKENS = [1, 16, 64, 96, 128, 160, 192, 224, 256, 512, 2048, 8192]


def cache_rows(pool: Pool, top: dict[str, float]) -> list[dict[str, Any]]:
    """The cache write, and the LR projection for one and for eight slots."""
    rows = []
    for tokens in TOKENS:
        rows.append(write_row(pool, tokens, top))
        rows += [project_row(tokens, slots, top) for slots in (1, 8)]
    return rows


def write_row(pool: Pool, tokens: int, top: dict[str, float]) -> dict[str, Any]:
    """Time the write of new tokens to places all over the cache."""
    pages, moved = pool.pages, 2 * tokens * pool.token_bytes
    heads = (pages.kv_heads, pages.head_dim)
    base = torch.ones(tokens, dtype=torch.bool, device="cuda")
    slots = torch.zeros(tokens, 1, dtype=torch.int32, device="cuda")
    calls = []
    for _ in range(copies(moved)):
        k, v = (random(tokens, *heads) for _ in range(2))
        places = torch.randperm(pages.num_pages * pages.page_size, device="cuda")[:tokens]
        calls.append(
            partial(
                launch_write, k, v, random(tokens, 1, 16), pages.k, pages.v, pages.lr, places, base,
                slots, slots,
            )
        )  # fmt: skip
    return cache_row("write", tokens, 1, calls, None, moved, top)


def project_row(tokens: int, slots: int, top: dict[str, float]) -> dict[str, Any]:
    """Time the LR projection; the peer is one torch.mm over all slots."""
    index = torch.arange(slots, dtype=torch.int32, device="cuda").expand(tokens, slots).contiguous()
    moved = 2 * (tokens * HIDDEN + slots * 16 * HIDDEN + tokens * slots * 16)
    calls, peers = [], []
    for _ in range(copies(moved)):
        x, a = random(tokens, HIDDEN), random(slots, 16, HIDDEN)
        calls.append(partial(launch_project, x, a, index, random(tokens, slots, 16)))
        peers.append(partial(torch.mm, x, a.reshape(-1, HIDDEN).T))
    return cache_row("project", tokens, slots, calls, peers, moved, top)


def random(*shape: int) -> torch.Tensor:
    """Normally distributed bf16 numbers on the device."""
    return torch.randn(shape, dtype=torch.bfloat16, device="cuda")


def cache_row(
    kind: str,
    tokens: int,
    slots: int,
    calls: Sequence[Callable[[], object]],
    peers: Sequence[Callable[[], object]] | None,
    moved: int,
    top: dict[str, float],
) -> dict[str, Any]:
    """Time the write or a projection beside its peer, if it has one."""
    mine, *others = time_together([calls] if peers is None else [calls, peers])
    peer = others[0].median if others else None
    row = {
        "kind": kind,
        "batch": tokens,
        "context": 0,
        "query": tokens,
        "slots": slots,
        "rank": 16,
        "kv_lora": False,
        "dtype": "bfloat16",
        "bytes": moved,
        **times(mine),
        "peer": None if peer is None else "torch.mm",
        "peer_us": None if peer is None else round(peer, 2),
        "ratio": None if peer is None else round(mine.median / peer, 4),
        "ceiling_share": round(moved / top["copy_bytes_per_s"] * 1e6 / mine.median, 4),
    }
    print(f"{kind:12} T{tokens:<6} slots {slots}  {mine.median:9.2f} us  peer {peer}", flush=True)
    return row


def layer_rows(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Share of write and projection in one layer of Llama 3.1 8B: its products plus attention."""
    result = []
    shapes = [(HIDDEN, 6144), (HIDDEN, HIDDEN), (HIDDEN, 28672), (14336, HIDDEN)]
    for kind, tokens, query, context in (
        ("decode", 1, 1, 8192),
        ("decode", 16, 1, 8192),
        ("decode", 64, 1, 8192),
        ("prefill", 2048, 2048, 8192),
        ("prefill", 8192, 8192, 8192),
    ):
        weights = [
            torch.randn(n, m, dtype=torch.bfloat16, device="cuda")
            for n, m in shapes
        ]  # fmt: skip
        inputs = [torch.randn(tokens, n, dtype=torch.bfloat16, device="cuda") for n, _ in shapes]

        def products(
            inputs: list[torch.Tensor] = inputs, weights: list[torch.Tensor] = weights
        ) -> None:
            for x, w in zip(inputs, weights, strict=True):
                torch.mm(x, w)

        linear = time_calls([products]).median
        attention = next(
            row["ours_us"] for row in rows
            if (row["kind"], row["query"], row["context"], row["rank"], row["kv_lora"])
            == (kind, query, context, 16, False)
            and row["batch"] == (tokens if kind == "decode" else 1)
        )  # fmt: skip
        cache = sum(
            row["ours_us"] for row in rows
            if row["batch"] == tokens
            and (row["kind"] == "write" or (row["kind"] == "project" and row["slots"] == 1))
        )  # fmt: skip
        layer = linear + attention + cache
        result.append(
            {"kind": kind, "tokens": tokens, "context": context, "layer_us": round(layer, 1),
             "write_and_project_us": round(cache, 2), "share": round(cache / layer, 4)}
        )  # fmt: skip
        print("layer", result[-1], flush=True)
    return result


def times(timing: Timing) -> dict[str, float]:
    """The three time columns of a result row."""
    return {
        "ours_us": round(timing.median, 2),
        "ours_p20": round(timing.p20, 2),
        "ours_p80": round(timing.p80, 2),
    }
