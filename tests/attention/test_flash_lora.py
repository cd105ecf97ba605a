from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.attention.cases import Case, Problem, dense, make, tolerance

from lragent.attention import Implementation, flash_lora_attention

BASE = Case()
GRID = [
    BASE,
    *(replace(BASE, head_dim=d) for d in (80, 96, 128, 256)),
    *(replace(BASE, v_rank=r) for r in (1, 3, 16, 37, 64)),
    *(replace(BASE, page_size=n, lens=((1, 150), (70, 131), (1, 63))) for n in (16, 32, 48, 64)),
    *(replace(BASE, kv_heads=h, group=g) for h, g in ((1, 1), (3, 3), (1, 8), (4, 1), (2, 7))),
    *(replace(BASE, slots=m, adapters=(2, 0, 1)) for m in (1, 3, 4)),
    replace(BASE, lens=((1, 1), (0, 9), (2, 2)), adapters=(0, 1, -1)),
    replace(BASE, lens=((0, 0), (1, 16), (1, 17)), adapters=(-1, 1, 0)),
    replace(BASE, lens=((1, 32), (16, 32), (0, 0)), scattered=False),
    replace(BASE, lens=((1, 2100), (3, 2049), (1, 4097)), scattered=False, kv_heads=1),
    replace(BASE, lens=((1, 2100), (3, 2049), (1, 4097)), kv_heads=1),
    replace(BASE, memory="separate"),
    replace(BASE, memory="head-major"),
    replace(BASE, memory="head-major", kv_heads=1, group=1, slots=1, v_rank=5, adapters=(0, 1, 0)),
    replace(BASE, memory="head-major", lens=((1, 2100), (3, 2049), (1, 4097)), scattered=False),
    replace(BASE, memory="head-major", lens=((1, 2100), (3, 2049), (1, 4097)), kv_heads=3),
    replace(BASE, memory="head-major", window=50, lens=((1, 70), (33, 90), (40, 40))),
    replace(BASE, adapters=(-1, -1, -1)),
    replace(BASE, slots=0, v_rank=0, adapters=(-1, -1, -1)),
    *(replace(BASE, window=w, lens=((1, 70), (33, 90), (40, 40))) for w in (1, 7, 16, 50, 200)),
    *(replace(BASE, k_rank=r, lens=((1, 70), (9, 40), (20, 20))) for r in (1, 5, 16)),
    replace(BASE, v_rank=0, k_rank=4),
    replace(BASE, k_rank=6, window=20, lens=((1, 70), (9, 45), (30, 30)), adapters=(0, 0, 1)),
]
CASES = [
    *GRID,
    *(
        replace(case, dtype=dtype)
        for dtype in (torch.bfloat16, torch.float16)
        for case in (BASE, replace(BASE, k_rank=4), replace(BASE, window=9), GRID[1], GRID[8])
    ),
]


def run(problem: Problem, implementation: Implementation) -> torch.Tensor:
    out = torch.full_like(problem.q, float("nan"))
    result = flash_lora_attention(
        problem.q,
        problem.pages,
        problem.batch,
        problem.tables,
        scale=problem.scale,
        sliding_window=problem.case.window,
        rotation=problem.rotation,
        implementation=implementation,
        out=out,
    )
    assert result is out
    return result


@pytest.mark.parametrize("case", CASES, ids=str)
def test_torch_is_as_exact_as_plain_pytorch(case: Case) -> None:
    problem = make(case)
    exact = dense(problem, torch.float64)
    error = (run(problem, "torch").double() - exact).abs()
    assert not error.isnan().any()
    assert error.amax() <= tolerance(problem, exact)


@pytest.mark.parametrize(
    "case", [case for case in GRID if max(n for _, n in case.lens) < 200], ids=str
)
def test_reference_is_the_papers_formula(case: Case) -> None:
    problem = make(replace(case, dtype=torch.float64))
    torch.testing.assert_close(
        run(problem, "reference"), dense(problem, torch.float64), rtol=1e-10, atol=1e-10
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_reference_returns_the_callers_dtype(dtype: torch.dtype) -> None:
    problem = make(replace(BASE, dtype=dtype, k_rank=3))
    exact = dense(problem, torch.float64)
    torch.testing.assert_close(run(problem, "reference"), exact.to(dtype))


def test_adapter_changes_the_result() -> None:
    problem = make(BASE)
    without = make(replace(BASE, adapters=(-1, 1, -1)))
    first, _, _ = run(problem, "torch").split([1, 5, 16])
    plain, _, _ = run(without, "torch").split([1, 5, 16])
    assert (first - plain).abs().max() > 0.01


def test_adapter_without_a_slot_gets_plain_attention() -> None:
    problem = make(replace(BASE, adapters=(-1, -1, -1)))
    plain = run(problem, "torch")
    batch = replace(problem.batch, host_adapter_index=[0, 1, 0])
    assert torch.equal(run(replace(problem, batch=batch), "torch"), plain)


@pytest.mark.parametrize("implementation", ["reference", "torch"])
def test_queries_beyond_the_batch_are_left_alone(implementation: Implementation) -> None:
    problem = make(BASE)
    padded = torch.cat((problem.q, torch.zeros(3, *problem.q.shape[1:])))
    out = torch.full_like(padded, 7.0)
    flash_lora_attention(
        padded,
        problem.pages,
        problem.batch,
        problem.tables,
        scale=problem.scale,
        implementation=implementation,
        out=out,
    )
    assert (out[-3:] == 7).all()


def test_strided_queries_and_output() -> None:
    problem = make(BASE)
    expected = run(problem, "torch")
    heads_first = problem.q.transpose(0, 1).contiguous().transpose(0, 1)
    out = torch.empty(*problem.q.shape[:2], 2 * problem.q.shape[2])[..., ::2]
    flash_lora_attention(
        heads_first, problem.pages, problem.batch, problem.tables, scale=problem.scale, out=out
    )
    torch.testing.assert_close(out, expected)
