"""The dense kernel against the float64 answer, over contiguous keys and values."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from tests.attention.problems import DEVICE, HALF, Case, Problem, assert_close, make
from torch import Tensor

from lragent.attention.gpu.prefill import launch_dense
from lragent.attention.gpu.tiles import Tile

CASE = Case(adapters=(-1,), v_rank=0, slots=0, dtype=HALF)


def attend(problem: Problem, q: Tensor, out: Tensor, first: int = 0) -> None:
    """The problem's answer into ``out`` by the dense kernel; its queries begin at row ``first``."""
    queries, contexts = zip(*problem.case.lens, strict=True)
    starts_q, starts_k = (
        torch.tensor([*itertools.accumulate(lens, initial=start)], dtype=torch.int32, device=DEVICE)
        for lens, start in ((queries, first), (contexts, 0))
    )
    k, v = torch.cat(problem.k), torch.cat(problem.v)
    window = problem.case.window or 0
    launch_dense(q, out, k, v, starts_q, starts_k, problem.scale, window, Tile(64, 32, 4, 2))


@pytest.mark.parametrize("head_dim", [80, 128])
@pytest.mark.parametrize("window", [None, 20])
@pytest.mark.parametrize(("kv_heads", "group"), [(2, 2), (1, 3)])
def test_matches_float64(head_dim: int, window: int | None, kv_heads: int, group: int):
    lens = ((9, 40), (70, 70), (3, 65))
    case = replace(
        CASE, lens=lens, kv_heads=kv_heads, group=group, head_dim=head_dim, window=window
    )
    problem = make(case, device=DEVICE)
    out = torch.full_like(problem.q, float("nan"))
    attend(problem, problem.q, out)
    assert_close(out, problem)


def test_only_its_own_rows_are_written():
    problem = make(replace(CASE, lens=((6, 16),), group=1), device=DEVICE)
    q = torch.cat((problem.q[:4], problem.q, problem.q[:2]))
    out = torch.full_like(q, 7.0)
    attend(problem, q, out, first=4)
    assert (out[:4] == 7.0).all()
    assert (out[10:] == 7.0).all()
    assert_close(out[4:10], problem)
