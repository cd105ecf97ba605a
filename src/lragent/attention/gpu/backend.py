"""The GPU implementation: what it refuses, and what a batch launches."""

from __future__ import annotations

import bisect
import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from lragent.attention.backend import Backend
from lragent.attention.base import (
    AttentionBatch,
    KeyRotation,
    LoraTables,
    PageViews,
    UnsupportedError,
)
from lragent.attention.gpu import fa3
from lragent.attention.gpu.calls import ALL, Call, PlannedRun, prepare, scratch
from lragent.attention.gpu.launch import interpreting
from lragent.attention.gpu.layer import Layer, Sequences
from lragent.attention.gpu.plan import (
    FA3_RATE,
    LAUNCH,
    SCRATCH_BYTES,
    TRITON_RATE,
    Run,
    Shape,
    plan_runs,
)
from lragent.attention.gpu.project import launch_project
from lragent.attention.gpu.write import launch_write

_graph_safe = False
_DTYPES = (torch.float16, torch.bfloat16, torch.float32)


class TritonBackend(Backend):
    """The three operations by Triton kernels, and FlashAttention 3 where it is installed."""

    def attend(
        self,
        q: Tensor,
        pages: PageViews,
        batch: AttentionBatch,
        tables: LoraTables,
        *,
        scale: float,
        sliding_window: int | None = None,
        rotation: KeyRotation | None = None,
        out: Tensor | None = None,
    ) -> Tensor:
        """See `lragent.attention.flash_lora_attention`.

        While a CUDA graph is being captured, or under `graph_safe`, the choice of kernel rests on
        ``batch.max_query`` and ``batch.max_seq`` alone, as capacities: the graph may be replayed
        after the tensors of ``batch`` were overwritten with any batch of the same shapes within
        them.

        Raises:
            UnsupportedError: a dtype, width, rank or device that the kernels do not serve.
        """
        q = q if q.stride(2) == 1 else q.contiguous()
        out = torch.empty_like(q) if out is None else out
        window = sliding_window or 0
        layer = Layer.of(pages, tables, rotation)
        for call in attention_calls(q, out, layer, batch, scale, window):
            call(q, out, layer)
        return out

    def write(
        self,
        k: Tensor,
        v: Tensor,
        lr: Tensor | None,
        pages: PageViews,
        slot_mapping: Tensor,
        write_base: Tensor,
        lr_rows: Tensor,
        lr_slots: Tensor,
    ) -> None:
        """See `lragent.attention.write_pages`.

        Raises:
            UnsupportedError: a dtype, width or device that the kernel does not serve.
        """
        _check_pages(pages.k, pages.k, pages.v, pages.lr)
        k, v = (x if x.stride(2) == 1 else x.contiguous() for x in (k, v))
        if lr is not None and lr.stride(2) != 1:
            lr = lr.contiguous()
        launch_write(
            k, v, lr, pages.k, pages.v, pages.lr, slot_mapping, write_base, lr_rows, lr_slots
        )  # fmt: skip

    def project(self, x: Tensor, a: Tensor, index: Tensor) -> Tensor:
        """See `lragent.attention.project_lr`.

        Raises:
            UnsupportedError: a dtype or device that the kernel does not serve.
        """
        _check_device(x)
        x, a = (t if t.stride(-1) == 1 else t.contiguous() for t in (x, a))
        out = x.new_empty(x.shape[0], *a.shape[:2])
        launch_project(x, a, index, out)
        return out


def attention_calls(
    q: Tensor, out: Tensor, layer: Layer, batch: AttentionBatch, scale: float, window: int
) -> list[Call]:
    """What a batch launches in layers that are laid out like this one, worked out once.

    Args:
        q: ``[T, Hq, D]``, rows contiguous.
        out: ``[T, Hq, D]``, rows contiguous.
        layer: what is read besides the queries.
        batch: the sequences; it keeps the calls.
        scale: softmax scale.
        window: tokens that a query sees, 0 for all.

    Raises:
        UnsupportedError: see `TritonBackend.attend`.
    """
    # Everything that the launches depend on but for the memory: one entry serves many layers.
    key = (
        is_fixed(q), q.shape, q.dtype, q.stride(), out.stride(), scale, window,
        *((x.shape, x.stride(), x.dtype) if x is not None else None for x in layer),
    )  # fmt: skip
    return batch.once(_prepare, key, q, out, layer, batch, scale, window)


def _prepare(
    q: Tensor, out: Tensor, layer: Layer, batch: AttentionBatch, scale: float, window: int
) -> list[Call]:
    _check(q, out, layer, scale)
    return prepare(plan_batch(q, batch, layer, window), q, out, layer, scale, window)


def _check(q: Tensor, out: Tensor, layer: Layer, scale: float) -> None:
    _check_pages(q, layer.k, layer.v, layer.lr)
    for name, rank in (("value", layer.v_rank), ("key", layer.k_rank)):
        if rank > 256:
            raise UnsupportedError(f"{name} LoRA of rank {rank}: at most 256")
    group = q.shape[1] // layer.k.shape[1]
    if group > 64:
        raise UnsupportedError("more than 64 query heads a KV head")
    if layer.k_rank and group > 32:
        raise UnsupportedError("key LoRA with more than 32 query heads a KV head")
    if scale <= 0:
        raise UnsupportedError(f"scale {scale}: must be above 0")
    if out.stride(2) != 1:
        raise UnsupportedError("rows of out must be contiguous")


@contextlib.contextmanager
def graph_safe() -> Iterator[None]:
    """Launch as while a CUDA graph is captured; run a batch under it once before the capture.

    That run compiles the kernels and grows the shared buffers, which a capture may not.
    """
    global _graph_safe
    before, _graph_safe = _graph_safe, True
    try:
        yield
    finally:
        _graph_safe = before


def _check_device(tensor: Tensor) -> None:
    if tensor.device.type != "cuda" and not interpreting():
        raise UnsupportedError(f"the Triton kernels need a CUDA device, got {tensor.device}")
    if tensor.dtype not in _DTYPES:
        raise UnsupportedError(f"dtype {tensor.dtype}: only float16, bfloat16 and float32")


def _check_pages(q: Tensor, k: Tensor, v: Tensor, lr: Tensor | None) -> None:
    _check_device(q)
    if not q.dtype == k.dtype == v.dtype:
        raise UnsupportedError(f"queries of {q.dtype} over pages of {k.dtype}")
    if k.shape[3] > 256 or k.shape[3] % 2:
        raise UnsupportedError(f"head size {k.shape[3]}: even and at most 256")
    if any(block is not None and block.stride(3) != 1 for block in (k, v, lr)):
        raise UnsupportedError("rows of the pages must be contiguous")


def is_fixed(q: Tensor) -> bool:
    """Whether the choice of kernels rests on capacities: while a CUDA graph is captured."""
    return _graph_safe or (q.is_cuda and torch.cuda.is_current_stream_capturing())


def plan_batch(q: Tensor, batch: AttentionBatch, layer: Layer, window: int) -> list[PlannedRun]:
    """The batch's runs with their slices of its tensors."""
    shape = shape_of(q, layer, window)
    if is_fixed(q):
        count = batch.seq_lens.shape[0]
        path = "decode" if batch.max_query <= 1 else "tiles"
        runs = [Run(path, 0, count, ALL, batch.max_seq, count * batch.max_seq)]
        return parts_of(runs, batch, shape, q.dtype)
    runs = plan_runs(shape, batch.host_cu_seqlens_q, batch.host_seq_lens)
    if batch.whole is None:
        return parts_of(runs, batch, shape, q.dtype)
    first, then = _contexts_first(runs, batch, batch.whole, shape)
    contexts = parts_of(first, batch.whole, shape, q.dtype)
    return [*contexts, *parts_of(then, batch, shape, q.dtype)]


def _contexts_first(
    runs: list[Run], batch: AttentionBatch, whole: AttentionBatch, shape: Shape
) -> tuple[list[Run], list[Run]]:
    """Runs of ``whole`` for requests with a context, then runs of the turns, over their results.

    In the batch itself turns lie between the contexts, so that these share no launch. In
    ``whole`` they are neighbours, but turns are computed too, for nothing. Where that costs more,
    no runs and ``runs`` as they are.
    """
    starts, lens = batch.host_cu_seqlens_q, batch.host_seq_lens
    begins, ends = whole.host_cu_seqlens_q, whole.host_seq_lens
    slots = batch.host_lr_slot
    parts = [
        index for index, slot in enumerate(slots) if slot < 0 and starts[index + 1] > starts[index]
    ]
    turns = {index for index, slot in enumerate(slots) if slot >= 0}
    contexts = {bisect.bisect_right(begins, starts[index]) - 1 for index in parts}
    first = plan_runs(shape, begins, ends, contexts)
    then = plan_runs(shape, starts, lens, turns)
    work = sum(shape.flop(begins[index + 1] - begins[index], ends[index]) for index in contexts)
    work -= sum(shape.flop(starts[index + 1] - starts[index], lens[index]) for index in parts)
    fewer = len(runs) - len(first) - len(then)
    expands = any(run.path == "expand" for run in first)
    pays = expands and work / shape.dense_rate < fewer * LAUNCH
    return (first, then) if pays else ([], runs)


def shape_of(q: Tensor, layer: Layer, window: int) -> Shape:
    """What the cost rule needs to know; arguments as in `attention_calls`."""
    rate = 0.0
    if not is_fixed(q) and _expands(q.dtype, q.device):
        rate = TRITON_RATE if fa3.find(q.device) is None else FA3_RATE
    return Shape(
        heads=q.shape[1],
        kv_heads=layer.k.shape[1],
        head_dim=layer.k.shape[3],
        itemsize=q.dtype.itemsize,
        key_lora=layer.k_rank > 0,
        window=window,
        dense_rate=rate,
    )


def reserve_scratch(
    context: int, kv_heads: int, head_dim: int, dtype: torch.dtype, device: torch.device
) -> None:
    """Take the memory that contexts are expanded in now, for whoever plans a device's memory.

    Takes nothing where contexts are never expanded.

    Args:
        context: most tokens of a batch's contexts together.
        kv_heads: KV heads.
        head_dim: width of a head.
        dtype: of the cache.
        device: of the cache.
    """
    if _expands(dtype, device):
        needed = 2 * context * kv_heads * head_dim
        scratch(min(needed, SCRATCH_BYTES // dtype.itemsize), dtype, device)


def _expands(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether long contexts may be expanded."""
    if dtype.itemsize > 2 or device.type != "cuda":
        return False
    return torch.cuda.get_device_capability(device)[0] >= 9


def parts_of(
    runs: Sequence[Run], batch: AttentionBatch, shape: Shape, dtype: torch.dtype
) -> list[PlannedRun]:
    """Runs with their slices of the batch's tensors.

    Args:
        runs: of the batch.
        batch: the sequences.
        shape: of the layers.
        dtype: of the queries.
    """
    plan = []
    for run in runs:
        part = slice(run.first, run.last)
        starts_q = batch.cu_seqlens_q[run.first : run.last + 1]
        sequences = Sequences.of(batch, part)
        lens = sequences.seq_lens
        starts_k = work = None
        if run.path == "expand":
            starts_k = torch.zeros(run.last - run.first + 1, dtype=torch.int32, device=lens.device)
            torch.cumsum(lens, 0, dtype=torch.int32, out=starts_k[1:])
            work = _work(run, starts_q, lens, shape, dtype)
        plan.append(PlannedRun(run, starts_q, sequences, starts_k, work))
    return plan


def _work(
    run: Run, cu_seqlens_q: Tensor, seq_lens: Tensor, shape: Shape, dtype: torch.dtype
) -> Tensor | None:
    """FlashAttention 3's work list for a run that it serves, made once for all layers."""
    found = fa3.find(seq_lens.device)
    if found is None:
        return None
    return fa3.schedule(
        found, cu_seqlens_q, seq_lens, run.max_query, run.max_seq,
        shape.heads, shape.kv_heads, shape.head_dim, dtype, shape.window,
    )  # fmt: skip
