"""Decode with key LoRA by the kernel that takes tokens as rows."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.attention.problems import DEVICE, HALF, Case, Problem, assert_close, make, run

from lragent.attention.gpu import relaunch
from lragent.attention.gpu.launch import head_block, prepare_attend
from lragent.attention.gpu.layer import Layer, Sequences
from lragent.attention.gpu.tiles import Tile, tokens_as_rows

CASE = Case(lens=((1, 1), (1, 37), (1, 16), (1, 70), (1, 130)), kv_heads=1, k_rank=8, dtype=HALF)


def decode(problem: Problem, tile: Tile | None = None, splits: int | None = None) -> torch.Tensor:
    out = torch.full_like(problem.q, float("nan"))
    layer = Layer.of(problem.pages, problem.tables, problem.rotation)
    batch = problem.batch
    call = prepare_attend(
        problem.q, out, batch.cu_seqlens_q, layer, Sequences.of(batch), problem.scale,
        problem.case.window or 0, batch.max_seq, True, 1, 1, tile, splits,
    )  # fmt: skip
    assert call is not None
    assert call.attend.kernel.__name__ == "decode_kernel"
    call(problem.q, out, layer)
    return out


@pytest.mark.parametrize("window", [1, 16, 21, 100])
def test_sliding_window(window: int):
    problem = make(replace(CASE, window=window), device=DEVICE)
    assert_close(decode(problem), problem)


@pytest.mark.parametrize("splits", [1, 3, 9])
@pytest.mark.parametrize(
    "tile", [Tile(8, 16, 1, 2, 8), Tile(8, 32, 2, 2, 4), Tile(8, 64, 2, 1, 2)], ids=str
)
def test_tiles_and_shares(tile: Tile, splits: int):
    case = replace(CASE, lens=((1, 37), (1, 16), (1, 130)), adapters=(0, -1, 2))
    problem = make(case, device=DEVICE)
    assert_close(decode(problem, tile, splits), problem)


@pytest.mark.parametrize("ranks", [(0, 1), (5, 7), (64, 32), (1, 16)], ids=str)
@pytest.mark.parametrize(("kv_heads", "group"), [(1, 1), (2, 3), (1, 8)])
@pytest.mark.parametrize("head_dim", [64, 80, 128])
def test_shapes(ranks: tuple[int, int], kv_heads: int, group: int, head_dim: int):
    case = Case(
        lens=((1, 40), (1, 5), (1, 3)), kv_heads=kv_heads, group=group, head_dim=head_dim,
        v_rank=ranks[0], k_rank=ranks[1], dtype=HALF,
    )  # fmt: skip
    problem = make(case, device=DEVICE)
    assert_close(decode(problem), problem)


def test_sequences_without_a_query_are_left_alone():
    case = replace(CASE, lens=((1, 20), (0, 9), (1, 33)), adapters=(0, 1, 1))
    problem = make(case, device=DEVICE)
    assert_close(decode(problem), problem)


def test_what_it_does_not_serve_goes_to_the_other_kernel(monkeypatch: pytest.MonkeyPatch):
    assert tokens_as_rows(HALF, 128, 8, 64, 32)
    case = replace(CASE, lens=((1, 20), (1, 40)))
    for changed in (
        replace(case, dtype=torch.float32),
        replace(case, group=9),
        replace(case, head_dim=256),
        replace(case, v_rank=65),
        replace(case, k_rank=33),
        replace(case, k_rank=0),
    ):
        problem = make(changed, device=DEVICE)
        monkeypatch.setattr(relaunch, "_launches", {})
        out = run(problem, "triton")
        kernels = {launch.kernel.__name__ for launch in relaunch._launches.values()}
        assert "attend_kernel" in kernels, changed
        assert "decode_kernel" not in kernels, changed
        assert_close(out, problem)


def test_a_product_over_a_head_has_the_columns_that_a_matrix_instruction_takes():
    # The interpreter takes any number; on a GPU kernels with fewer than 16 do not compile.
    assert [head_block(8, 0), head_block(8, 4), head_block(16, 4)] == [16, 32, 32]
    assert [head_block(64, 8), head_block(96, 0)] == [64, 128]
