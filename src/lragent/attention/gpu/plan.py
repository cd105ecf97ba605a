"""Which kernel serves which sequences of a batch: the cost rule.

A batch is cut into runs of neighbouring sequences:

- **decode**: at most one query each. The split kernel reads the pages as they lie.
- **tiles**: the same kernel on tiles of queries.
- **expand**: the context is gathered into a scratch buffer once, adapter terms included, and a
  dense kernel does the rest: FlashAttention 3 if it is installed, else `dense.py`. Possible where
  a dense kernel serves the device and dtype, and the context fits in the buffer.

The smallest estimate wins, with F the floating-point operations of causal attention and B the bytes
that gathering reads and writes: ``F / tiles_rate + start`` and ``B / gather_rate + F / dense_rate +
launch``. The start is what few tiles take however short the context; many tiles hide it. Key LoRA
slows the tiles (every tile of queries rebuilds the keys) and the gathering, but not the dense
kernel. The rates were measured on an H100 (``benchmarks/LOG.md``); only their ratios matter.

Sequences without adapter terms are gathered too. FlashAttention 3 can read their pages as they
lie, but a context and its turn of hundreds of tokens then take two calls in each layer instead of
one, and a workflow of such turns had 0.98 of the throughput (``old-new-h200-paged.json``).
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from typing import Literal, NamedTuple

Path = Literal["decode", "tiles", "expand"]

SCRATCH_BYTES = 512 << 20
"""Most bytes of expanded K and V at a time."""

FA3_RATE = 700e12
"""FLOP/s of FlashAttention 3 over contiguous keys."""

TRITON_RATE = 490e12
"""FLOP/s of `dense_kernel`."""

_TILES_RATE, _TILES_RATE_FEW, _TILES_RATE_KEY_LORA = 360e12, 250e12, 150e12
_GATHER_RATE, _GATHER_RATE_KEY_LORA = 2.6e12, 1.6e12
LAUNCH, _START_FEW = 20e-6, 17e-6

_FEW_ROWS = 128 * 132
"""Queries times heads below which the tiles of one sequence cannot fill an H100."""


class Run(NamedTuple):
    """Neighbouring sequences ``[first, last)`` that one kernel serves.

    Attributes:
        path: the kernel.
        first: first sequence.
        last: one past the last sequence.
        max_query: most queries of a sequence.
        max_seq: longest context.
        context: tokens of all contexts.
    """

    path: Path
    first: int
    last: int
    max_query: int
    max_seq: int
    context: int


class Shape(NamedTuple):
    """What the cost rule needs to know about a layer.

    Attributes:
        heads: query heads.
        kv_heads: KV heads.
        head_dim: width of a head.
        itemsize: bytes of an element.
        key_lora: whether keys have an adapter term.
        window: tokens that a query sees, 0 for all.
        dense_rate: FLOP/s of the dense kernel for this dtype and device, 0 without one.
    """

    heads: int
    kv_heads: int
    head_dim: int
    itemsize: int
    key_lora: bool
    window: int
    dense_rate: float

    @property
    def expanded_token(self) -> int:
        """Bytes of one expanded token, K and V."""
        return 2 * self.kv_heads * self.head_dim * self.itemsize

    def flop(self, queries: int, context: int) -> float:
        """Floating-point operations of one sequence's causal attention."""
        seen = context - queries / 2
        if self.window:
            seen = min(seen, self.window)
        return 4.0 * self.heads * self.head_dim * queries * seen


def estimates(shape: Shape, queries: int, context: int) -> dict[Path, float]:
    """Seconds of one sequence with several queries, by each path that is possible."""
    work = shape.flop(queries, context)
    few = queries * shape.heads < _FEW_ROWS
    start = _START_FEW if few else 0.0
    tiles_rate, gather_rate = _TILES_RATE_FEW if few else _TILES_RATE, _GATHER_RATE
    if shape.key_lora:
        tiles_rate, gather_rate = _TILES_RATE_KEY_LORA, _GATHER_RATE_KEY_LORA
    seconds: dict[Path, float] = {"tiles": work / tiles_rate + start}
    gather = 2.0 * shape.expanded_token * context / gather_rate
    if shape.dense_rate and shape.expanded_token * context <= SCRATCH_BYTES:
        seconds["expand"] = gather + work / shape.dense_rate + LAUNCH
    return seconds


def best_path(shape: Shape, queries: int, context: int) -> Path:
    """The path that is estimated fastest for one sequence."""
    if queries <= 1:
        return "decode"
    seconds = estimates(shape, queries, context)
    return min(seconds, key=seconds.__getitem__)


def plan_runs(
    shape: Shape,
    cu_seqlens_q: Sequence[int],
    seq_lens: Sequence[int],
    wanted: Collection[int] | None = None,
) -> list[Run]:
    """Cut a batch into runs; sequences without queries cost nothing in any run.

    With ``wanted`` only these sequences are planned. A decode run may serve others of one query
    between them, too; tiles of several queries then need neighbours.

    The kernel of decode and tiles skips sequences by their number of queries alone, so all decode
    sequences share one launch, and so do tile sequences with none of another path of several
    queries between them. The expand path needs neighbours.
    """
    runs: list[Run] = []
    counts = [last - first for first, last in itertools.pairwise(cu_seqlens_q)]
    for index, (queries, context) in enumerate(zip(counts, seq_lens, strict=True)):
        if queries == 0 or (wanted is not None and index not in wanted):
            continue
        path = best_path(shape, queries, context)
        joined = _joinable(runs, path, index, context, shape, near=wanted is not None)
        run = Run(path, index, index + 1, queries, context, context)
        if joined is None:
            runs.append(run)
        else:
            runs[joined] = _join(runs[joined], run)
    return runs


def _joinable(
    runs: list[Run], path: Path, index: int, context: int, shape: Shape, near: bool
) -> int | None:
    """Position of the earlier run that sequence ``index`` may join; tiles as neighbours if near."""
    for position in reversed(range(len(runs))):
        run = runs[position]
        if run.path == path:
            if path == "decode" or (path == "tiles" and not near):
                return position
            fits = (run.context + context) * shape.expanded_token <= SCRATCH_BYTES
            return position if run.last == index and (fits or path == "tiles") else None
        if path == "expand" or (path == "tiles" and run.path == "expand"):
            return None
    return None


def _join(run: Run, other: Run) -> Run:
    return Run(
        run.path,
        run.first,
        other.last,
        max(run.max_query, other.max_query),
        max(run.max_seq, other.max_seq),
        run.context + other.context,
    )
