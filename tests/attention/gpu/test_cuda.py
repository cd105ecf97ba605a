"""What only a GPU can show: CUDA graphs, and the path through FlashAttention 3.

Triton's interpreter covers the kernels themselves.
"""

from __future__ import annotations

import pytest
import torch
from tests.attention.problems import (
    DEVICE,
    HALF,
    Case,
    Problem,
    assert_close,
    make,
    run,
)

from lragent.attention import UnsupportedError
from lragent.attention.gpu import fa3, graph_safe, workspace
from lragent.attention.gpu.backend import plan_batch
from lragent.attention.gpu.layer import Layer
from lragent.attention.gpu.workspace import held_bytes

pytestmark = pytest.mark.skipif(DEVICE.type != "cuda", reason="needs a CUDA device")


def test_graph_replays_with_other_lengths_adapters_and_pages():
    for queries, first, later in (
        ([1] * 4, [70, 3, 200, 1], [5, 256, 17, 90]),
        ([8, 1, 0, 3], [70, 3, 200, 31], [9, 256, 17, 90]),
    ):

        def batch(tokens: list[int], *adapters: int, queries: list[int] = queries) -> Problem:
            lens = tuple(zip(queries, tokens, strict=True))
            case = Case(lens=lens, adapters=adapters, k_rank=4, dtype=HALF)
            return make(case, seed=tokens[0], device=DEVICE)

        # Tensors as large as any batch will need; the captured graph reads these.
        live = batch([256] * 4, 0, 1, 2, 1)
        out = torch.empty_like(live.q)
        replays = [batch(first, -1, 0, 1), batch(later, 2, 0, -1, 1)]
        with graph_safe():
            run(live, "triton", out)
        before = held_bytes()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            run(live, "triton", out)
        assert held_bytes() == before
        for other in replays:
            load(live, other)
            out.fill_(float("nan"))
            graph.replay()
            torch.cuda.synchronize()
            assert_close(out, other)


def load(live: Problem, other: Problem) -> None:
    """Overwrite the tensors that a captured graph reads with those of another problem."""
    live.q.copy_(other.q)
    for name in ("k", "v", "lr"):
        mine, theirs = getattr(live.pages, name), getattr(other.pages, name)
        mine.fill_(float("nan"))
        mine[: theirs.shape[0]] = theirs
    width = other.batch.block_tables.shape[1]
    live.batch.block_tables[:, :width] = other.batch.block_tables
    for name in ("cu_seqlens_q", "seq_lens", "adapter_index", "lr_slot"):
        getattr(live.batch, name).copy_(getattr(other.batch, name))
    for mine, theirs in (
        (live.tables.v_b, other.tables.v_b),
        (live.tables.k_b, other.tables.k_b),
    ):
        assert mine is not None
        assert theirs is not None
        mine.zero_()
        rows = min(len(mine), len(theirs))
        mine[:rows] = theirs[:rows]


@pytest.mark.parametrize("dense", ["fa3", "triton"])
def test_expanded_prefill(dense: str, monkeypatch: pytest.MonkeyPatch):
    if dense == "triton":
        monkeypatch.setattr(fa3, "find", lambda device: None)
    else:
        assert fa3.find(DEVICE) is not None, "install FlashAttention 3 to test this path"
    for k_rank, window in ((0, None), (8, None), (0, 300)):
        case = Case(
            lens=((1, 3000), (900, 900), (1200, 2100), (20, 20), (1, 400)),
            kv_heads=8,
            group=4,
            head_dim=128,
            k_rank=k_rank,
            window=window,
            dtype=HALF,
        )
        problem = make(case, device=DEVICE)
        monkeypatch.setattr("lragent.attention.gpu.plan.LAUNCH", -1.0)
        out = run(problem, "triton")
        assert paths_of(problem) == {"decode", "expand"}
        assert_close(out, problem)


def paths_of(problem: Problem) -> set[str]:
    layer = Layer.of(problem.pages, problem.tables, problem.rotation)
    runs = plan_batch(problem.q, problem.batch, layer, problem.case.window or 0)
    return {planned.run.path for planned in runs}


def test_a_capture_without_warm_up_says_what_to_do(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(workspace, "_buffers", {})
    problem = make(Case(lens=((1, 100_000),) * 3, dtype=HALF), device=DEVICE)
    with (
        pytest.raises(UnsupportedError, match="once under"),
        torch.cuda.graph(torch.cuda.CUDAGraph()),
    ):
        run(problem, "triton")
