"""The attention kernel against the float64 answer, over shapes, dtypes and layouts."""

from __future__ import annotations

import pytest
import torch
from tests.attention.gpu.problems import (
    DEVICE,
    HALF,
    Problem,
    assert_close,
    assert_within,
    attend,
    dense_answer,
    make,
    without_adapters,
)

from lragent.attention.gpu import TritonBackend
from lragent.attention.naive import NaiveBackend


def run(problem: Problem) -> torch.Tensor:
    out = torch.full_like(problem.q, float("nan"))
    result = attend(problem, out)
    assert result is out
    return result


DECODE = ([1, 1, 1, 1], [1, 37, 16, 70])
PREFILL = ([19, 5], [19, 40])
MIXED = ([1, 23, 0, 1, 2], [33, 23, 12, 1, 20])


@pytest.mark.parametrize("lens", [DECODE, PREFILL, MIXED], ids=["decode", "prefill", "mixed"])
@pytest.mark.parametrize("dtype", [torch.float32, HALF], ids=str)
@pytest.mark.parametrize("k_rank", [0, 8], ids=["v", "k-and-v"])
def test_lengths_and_dtypes(lens: tuple[list[int], list[int]], dtype: torch.dtype, k_rank: int):
    problem = make(*lens, dtype=dtype, k_rank=k_rank)
    assert_close(run(problem), problem)


@pytest.mark.parametrize("head_dim", [64, 80, 96, 128, 256])
@pytest.mark.parametrize("k_rank", [0, 4], ids=["v", "k-and-v"])
def test_head_sizes(head_dim: int, k_rank: int):
    problem = make([1, 6], [35, 21], head_dim=head_dim, k_rank=k_rank, dtype=HALF)
    assert_close(run(problem), problem)


@pytest.mark.parametrize("v_rank", [0, 1, 3, 16, 33, 64, 256])
def test_value_ranks(v_rank: int):
    problem = make([1, 9], [35, 21], v_rank=v_rank, slots=1, dtype=HALF)
    assert_close(run(problem), problem)


@pytest.mark.parametrize("k_rank", [1, 7, 32, 100, 256])
def test_key_ranks(k_rank: int):
    problem = make([1, 9], [35, 21], v_rank=0, k_rank=k_rank, adapters=[0, 1], dtype=HALF)
    assert_close(run(problem), problem)


def test_widest_rank_and_head_in_float32():
    problem = make([1, 3], [20, 19], head_dim=256, v_rank=256, k_rank=256, adapters=[0, 1])
    assert_close(run(problem), problem)


@pytest.mark.parametrize("page_size", [16, 32, 48, 128, 256])
@pytest.mark.parametrize("one_page", [True, False], ids=["one-page", "separate"])
def test_page_sizes_and_layouts(page_size: int, one_page: bool):
    problem = make([1, 7], [67, 290], page_size=page_size, one_page=one_page, dtype=HALF)
    assert_close(run(problem), problem)


@pytest.mark.parametrize("heads", [(2, 2), (3, 1), (8, 2), (14, 2), (24, 1)], ids=str)
@pytest.mark.parametrize("lens", [DECODE, PREFILL], ids=["decode", "prefill"])
def test_head_ratios(heads: tuple[int, int], lens: tuple[list[int], list[int]]):
    problem = make(*lens, heads=heads, dtype=HALF)
    assert_close(run(problem), problem)


@pytest.mark.parametrize("window", [1, 16, 21])
@pytest.mark.parametrize("lens", [DECODE, PREFILL, MIXED], ids=["decode", "prefill", "mixed"])
def test_sliding_window(window: int, lens: tuple[list[int], list[int]]):
    problem = make(*lens, window=window, k_rank=4)
    assert_close(run(problem), problem)


@pytest.mark.parametrize("factor", [1.0, 4.0], ids=["default", "linear"])
def test_key_rotation_at_far_positions(factor: float):
    problem = make([1], [700], k_rank=8, adapters=[0], factor=factor, page_size=64)
    assert_close(run(problem), problem)


def test_agrees_with_the_slow_reference():
    problem = make([1, 4, 0], [18, 9, 3], k_rank=4, window=11)
    expected = NaiveBackend().attend(
        problem.q,
        problem.pages,
        problem.batch,
        problem.tables,
        scale=problem.scale,
        sliding_window=problem.window,
        rotation=problem.rotation,
    )
    truth = dense_answer(problem, torch.float64)
    assert_within(expected, truth, dense_answer(problem, torch.float32))
    assert_within(run(problem), expected.double(), dense_answer(problem, torch.float32))


def test_no_adapter_never_reads_the_lr_block():
    problem = make([1, 8], [40, 30], k_rank=4)
    assert problem.pages.lr is not None
    problem.pages.lr.fill_(float("nan"))
    problem = without_adapters(problem)
    assert_close(run(problem), problem)


def test_adapter_term_is_there():
    problem = make([1, 8], [40, 30], adapters=[0, 1])
    plain = without_adapters(problem)
    assert (run(problem) - run(plain)).abs().max() > 0.1


def test_empty_batches():
    for lens in (([], []), ([0], [5]), ([0, 0], [5, 16])):
        problem = make(*lens)
        assert run(problem).shape[0] == 0


def test_rows_beyond_the_batch_stay_as_they_are():
    problem = make([1, 3], [20, 9])
    q = torch.cat((problem.q, torch.full_like(problem.q[:2], float("nan"))))
    out = torch.full_like(q, 7.0)
    TritonBackend().attend(
        q, problem.pages, problem.batch, problem.tables, scale=problem.scale, out=out
    )
    assert (out[4:] == 7.0).all()
    assert_close(out[:4], problem)


def test_strided_queries():
    problem = make([1, 3], [20, 9])
    wide = torch.empty(*problem.q.shape[:2], 2 * problem.q.shape[2], device=DEVICE)
    wide[..., : problem.q.shape[2]] = problem.q
    strided = wide[..., : problem.q.shape[2]]
    result = TritonBackend().attend(
        strided, problem.pages, problem.batch, problem.tables, scale=problem.scale
    )
    assert_close(result, problem)


def test_repeats_are_bitwise_equal():
    problem = make([1, 12, 1], [90, 40, 64], k_rank=4, dtype=HALF)
    first = run(problem)
    repeats = 200 if DEVICE.type == "cuda" else 3
    assert all(torch.equal(run(problem), first) for _ in range(repeats))
