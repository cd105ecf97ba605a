"""Decode with key LoRA by the kernel that takes tokens as rows."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.attention.gpu.problems import HALF, Problem, assert_close, attend, make

from lragent.attention.gpu import relaunch
from lragent.attention.gpu.launch import prepare_attend
from lragent.attention.gpu.layer import Layer, Sequences
from lragent.attention.gpu.tiles import Tile, tokens_as_rows

LENS = [1, 37, 16, 70, 130]


def decode(problem: Problem, tile: Tile | None = None, splits: int | None = None) -> torch.Tensor:
    out = torch.full_like(problem.q, float("nan"))
    layer = Layer.of(problem.pages, problem.tables, problem.rotation)
    batch = problem.batch
    call = prepare_attend(
        problem.q, out, batch.cu_seqlens_q, layer, Sequences.of(batch), problem.scale,
        problem.window or 0, batch.max_seq, True, 1, 1, tile, splits,
    )  # fmt: skip
    assert call is not None
    assert call.attend.kernel.__name__ == "decode_kernel"
    call(problem.q, out, layer)
    return out


@pytest.mark.parametrize("window", [1, 16, 21, 100])
def test_sliding_window(window: int):
    problem = make([1] * 5, LENS, k_rank=8, window=window, dtype=HALF)
    assert_close(decode(problem), problem)


@pytest.mark.parametrize("splits", [1, 3, 9])
@pytest.mark.parametrize(
    "tile", [Tile(8, 16, 1, 2, 8), Tile(8, 32, 2, 2, 4), Tile(8, 64, 2, 1, 2)], ids=str
)
def test_tiles_and_shares(tile: Tile, splits: int):
    problem = make([1] * 5, LENS, k_rank=8, dtype=HALF, adapters=[0, -1, 1, 2, 1])
    assert_close(decode(problem, tile, splits), problem)


@pytest.mark.parametrize("ranks", [(0, 1), (5, 7), (64, 32), (1, 16)], ids=str)
@pytest.mark.parametrize("heads", [(1, 1), (6, 2), (8, 1)], ids=str)
@pytest.mark.parametrize("head_dim", [64, 80, 128])
def test_shapes(ranks: tuple[int, int], heads: tuple[int, int], head_dim: int):
    problem = make(
        [1] * 3, [33, 5, 70], heads=heads, head_dim=head_dim, v_rank=ranks[0], k_rank=ranks[1],
        adapters=[0, 1, -1], dtype=HALF,
    )  # fmt: skip
    assert_close(decode(problem), problem)


def test_sequences_without_a_query_are_left_alone():
    problem = make([1, 0, 1], [20, 9, 33], k_rank=4, dtype=HALF, adapters=[0, 1, 1])
    assert_close(decode(problem), problem)


def test_what_it_does_not_serve_goes_to_the_other_kernel(monkeypatch: pytest.MonkeyPatch):
    assert tokens_as_rows(HALF, 128, 8, 64, 32)
    wider = [
        {"dtype": torch.float32},
        {"heads": (9, 1)},
        {"head_dim": 256},
        {"v_rank": 65},
        {"k_rank": 33},
        {"k_rank": 0},
    ]
    for changed in wider:
        problem = make([1, 1], [20, 40], **{"k_rank": 4, "dtype": HALF} | changed)
        monkeypatch.setattr(relaunch, "_launches", {})
        out = attend(problem)
        launches: dict[Any, Any] = relaunch._launches
        kernels = {key[0].__name__ for key in launches}
        assert "attend_kernel" in kernels, changed
        assert "decode_kernel" not in kernels, changed
        assert_close(out, problem)
