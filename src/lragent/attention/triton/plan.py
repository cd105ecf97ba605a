"""Which kernel serves which sequences of a batch: the cost rule.

A batch is cut into runs of neighbouring sequences:

- **decode**: at most one query each. The split kernel reads the pages as they lie.
- **tiles**: the same kernel on tiles of queries.
- **expand**: the context is gathered into a scratch buffer once, adapter terms included, and a
  dense kernel does the rest: FlashAttention 3 if it is installed, else `dense.py`. Possible where
  a dense kernel serves the device and dtype, and the context fits in the buffer.
- **values**: only the values are completed, into the buffer, at the place of their page, and
  FlashAttention 3 reads the keys where they lie, with one block table for both. Possible where it
  takes block tables, keys have no adapter term, and the values of all pages of a layer fit in the
  buffer. Sequences that may share pages need the same values there, so those of one run read the
  same LR slot with the same adapter.

The smallest estimate wins, with F the floating-point operations of causal attention and B the bytes
that gathering reads and writes: ``F / tiles_rate + start``, ``B / gather_rate + F / dense_rate +
launch`` and ``B / 2 / gather_rate + F / paged_rate + launch``. The start is what few tiles take
however short the context; many tiles hide it. Key LoRA slows the tiles (every tile of queries
rebuilds the keys) and the gathering, but not the dense kernel. Neighbours that are not left to the
tiles fill the device better together, so they are served together, by the better of the paths that
serve them all. The rates were measured on an H100 (``docs/kernels.md``); only their ratios matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

Path = Literal["decode", "tiles", "expand", "values"]

SCRATCH_BYTES = 512 << 20
"""Most bytes of expanded K and V, or of completed values, at a time."""

FA3_RATE = 700e12
"""FLOP/s of FlashAttention 3 over contiguous keys."""

FA3_PAGED_RATE = 645e12
"""FLOP/s of FlashAttention 3 over pages."""

TRITON_RATE = 490e12
"""FLOP/s of `dense_kernel`."""

_TILES_RATE, _TILES_RATE_FEW, _TILES_RATE_KEY_LORA = 360e12, 250e12, 150e12
_GATHER_RATE, _GATHER_RATE_KEY_LORA = 2.6e12, 1.6e12
_LAUNCH, _START_FEW = 20e-6, 17e-6

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
        work: floating-point operations of all its sequences.
        lora: adapter and LR slot that each of its sequences reads; None where they differ or are
            unknown.
    """

    path: Path
    first: int
    last: int
    max_query: int
    max_seq: int
    context: int
    work: float = 0.0
    lora: tuple[int, int] | None = None


class Shape(NamedTuple):
    """What the cost rule needs to know about a layer.

    Attributes:
        heads: query heads.
        kv_heads: KV heads.
        head_dim: width of a head.
        itemsize: bytes of an element.
        key_lora: whether keys have an adapter term.
        window: tokens that a query sees, 0 for all.
        num_pages: pages of the layer.
        page_size: tokens of a page.
        dense_rate: FLOP/s of the dense kernel for this dtype and device, 0 without one.
        paged_rate: FLOP/s of FlashAttention 3 over pages, 0 where it cannot read them.
    """

    heads: int
    kv_heads: int
    head_dim: int
    itemsize: int
    key_lora: bool
    window: int
    num_pages: int
    page_size: int
    dense_rate: float
    paged_rate: float

    @property
    def values_token(self) -> int:
        """Bytes of the values of one token."""
        return self.kv_heads * self.head_dim * self.itemsize

    @property
    def expanded_token(self) -> int:
        """Bytes of one expanded token, K and V."""
        return 2 * self.values_token

    @property
    def completes_values(self) -> bool:
        """Whether the values path is possible."""
        values = self.num_pages * self.page_size * self.values_token
        return self.paged_rate > 0 and not self.key_lora and values <= SCRATCH_BYTES


def estimates(shape: Shape, queries: int, context: int) -> dict[Path, float]:
    """Seconds of one sequence with several queries, by each path that is possible."""
    work = _work(shape, queries, context)
    few = queries * shape.heads < _FEW_ROWS
    rate = _TILES_RATE_FEW if few else _TILES_RATE
    if shape.key_lora:
        rate = _TILES_RATE_KEY_LORA
    tiles: dict[Path, float] = {"tiles": work / rate + (_START_FEW if few else 0.0)}
    return tiles | _dense_estimates(shape, work, context)


def _work(shape: Shape, queries: int, context: int) -> float:
    """Floating-point operations of causal attention of one sequence."""
    seen = context - queries / 2
    if shape.window:
        seen = min(seen, shape.window)
    return 4.0 * shape.heads * shape.head_dim * queries * seen


def _dense_estimates(shape: Shape, work: float, context: int) -> dict[Path, float]:
    """Seconds of sequences that FlashAttention 3 or our dense kernel serves together."""
    gather_rate = _GATHER_RATE_KEY_LORA if shape.key_lora else _GATHER_RATE
    gather = 2.0 * shape.expanded_token * context / gather_rate
    seconds: dict[Path, float] = {}
    if shape.dense_rate and shape.expanded_token * context <= SCRATCH_BYTES:
        seconds["expand"] = gather + work / shape.dense_rate + _LAUNCH
    if shape.completes_values:
        seconds["values"] = gather / 2 + work / shape.paged_rate + _LAUNCH
    return seconds


def best_path(shape: Shape, queries: int, context: int) -> Path:
    """The path that is estimated fastest for one sequence."""
    if queries <= 1:
        return "decode"
    return _least(estimates(shape, queries, context))


def _least(seconds: dict[Path, float]) -> Path:
    return min(seconds, key=seconds.__getitem__)


def plan_runs(
    shape: Shape,
    cu_seqlens_q: Sequence[int],
    seq_lens: Sequence[int],
    loras: Sequence[tuple[int, int] | None] | None = None,
) -> list[Run]:
    """Cut a batch into runs; sequences without queries cost nothing in any run.

    The kernel of decode and tiles skips sequences by their number of queries alone, so all decode
    sequences share one launch, and so do tile sequences with none of another path of several
    queries between them. The expand and values paths need neighbours.

    Args:
        shape: of the layers.
        cu_seqlens_q: where each sequence's queries start, and the end.
        seq_lens: tokens of each context.
        loras: adapter and LR slot that each sequence reads, equal where none is read; None for
            what is unknown.
    """
    runs: list[Run] = []
    for index, context in enumerate(seq_lens):
        queries = cu_seqlens_q[index + 1] - cu_seqlens_q[index]
        if queries == 0:
            continue
        run = Run(
            best_path(shape, queries, context), index, index + 1, queries, context, context,
            _work(shape, queries, context), loras[index] if loras else None,
        )  # fmt: skip
        for position in reversed(range(len(runs))):
            joined = _join(shape, runs[position], run)
            if joined is not None:
                runs[position] = joined
                break
            if run.path in _DENSE or (run.path == "tiles" and runs[position].path in _DENSE):
                runs.append(run)
                break
        else:
            runs.append(run)
    return runs


_DENSE = ("expand", "values")


def _join(shape: Shape, run: Run, other: Run) -> Run | None:
    """One run of an earlier run and a later one, or None where they cannot share a launch."""
    joined = run._replace(
        last=other.last,
        max_query=max(run.max_query, other.max_query),
        max_seq=max(run.max_seq, other.max_seq),
        context=run.context + other.context,
        work=run.work + other.work,
        lora=run.lora if run.lora == other.lora else None,
    )
    if run.path not in _DENSE:
        return joined if run.path == other.path else None
    if other.path not in _DENSE or run.last != other.first:
        return None
    seconds = _dense_estimates(shape, joined.work, joined.context)
    if joined.lora is None:
        seconds.pop("values", None)
    if "expand" not in seconds and not run.path == other.path == "values":
        # Too long to be expanded together, and better expanded one by one.
        return None
    return joined._replace(path=_least(seconds)) if seconds else None
