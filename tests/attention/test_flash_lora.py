"""Every implementation against the dense formula, over lengths, shapes, dtypes and layouts."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.attention.problems import (
    HALF,
    Case,
    assert_close,
    dense,
    device_of,
    make,
    run,
    without_adapters,
)

from lragent.attention import Implementation

BASE = Case()
DECODE = ((1, 1), (1, 37), (1, 16), (1, 70))
PREFILL = ((19, 19), (5, 40))
MIXED = ((1, 33), (23, 23), (0, 12), (1, 1), (2, 20))
WINDOWED = ((1, 70), (33, 90), (40, 40))
LONG = replace(BASE, lens=((1, 2100), (3, 2049), (1, 4097)))
LENGTHS = [
    replace(BASE, lens=lens, k_rank=k_rank)
    for lens in (DECODE, PREFILL, MIXED)
    for k_rank in (0, 8)
]
FAR = [
    replace(BASE, lens=((1, 700),), k_rank=8, page_size=64),
    replace(BASE, lens=((1, 300), (2, 300)), k_rank=8, page_size=64, rope_factor=4.0),
]
SHAPES = [
    *(
        replace(BASE, lens=((1, 35), (6, 21)), head_dim=d, k_rank=k)
        for d in (64, 80, 96, 128, 256)
        for k in (0, 4)
    ),
    *(
        replace(BASE, lens=((1, 35), (9, 21)), v_rank=r, slots=1)
        for r in (0, 1, 3, 16, 33, 64, 256)
    ),
    *(replace(BASE, lens=((1, 35), (9, 21)), v_rank=0, k_rank=r) for r in (1, 7, 32, 100, 256)),
    *(
        replace(BASE, lens=((1, 67), (7, 290)), page_size=n, memory=memory)
        for n in (16, 32, 48, 128, 256)
        for memory in ("page", "separate")
    ),
    *(
        replace(BASE, lens=lens, kv_heads=h, group=g)
        for h, g in ((2, 1), (1, 3), (2, 4), (2, 7), (1, 24))
        for lens in (DECODE, PREFILL)
    ),
]
GRID = [
    BASE,
    *LENGTHS,
    *(replace(BASE, v_rank=r) for r in (3, 37)),
    *(replace(BASE, page_size=n, lens=((1, 150), (70, 131), (1, 63))) for n in (16, 48, 64)),
    *(replace(BASE, kv_heads=h, group=g) for h, g in ((1, 1), (3, 3), (1, 8), (4, 1))),
    *(replace(BASE, slots=m, adapters=(2, 0, 1)) for m in (1, 3, 4)),
    replace(BASE, lens=((1, 1), (0, 9), (2, 2))),
    replace(BASE, lens=((0, 0), (1, 16), (1, 17)), adapters=(-1, 1, 0)),
    replace(BASE, lens=((1, 32), (16, 32), (0, 0)), scattered=False),
    replace(LONG, scattered=False, kv_heads=1),
    replace(LONG, kv_heads=1),
    replace(BASE, memory="separate"),
    replace(BASE, memory="head-major"),
    replace(BASE, memory="head-major", kv_heads=1, group=1, slots=1, v_rank=5, adapters=(0, 1, 0)),
    replace(LONG, memory="head-major", scattered=False),
    replace(LONG, memory="head-major", kv_heads=3),
    replace(BASE, memory="head-major", window=50, lens=WINDOWED),
    replace(BASE, adapters=(-1,)),
    replace(BASE, slots=0, v_rank=0, adapters=(-1,)),
    *(replace(BASE, window=w, lens=WINDOWED) for w in (1, 7, 16, 50, 200)),
    *(
        replace(BASE, window=w, lens=lens, k_rank=4)
        for w in (1, 16, 21)
        for lens in (DECODE, PREFILL, MIXED)
    ),
    *(replace(BASE, k_rank=r, lens=((1, 70), (9, 40), (20, 20))) for r in (1, 5, 16)),
    replace(BASE, v_rank=0, k_rank=4),
    replace(BASE, k_rank=6, window=20, lens=((1, 70), (9, 45), (30, 30)), adapters=(0, 0, 1)),
    replace(BASE, lens=((1, 20), (3, 19)), head_dim=256, v_rank=256, k_rank=256),
    *FAR,
]
NARROW = [
    BASE,
    replace(BASE, k_rank=4),
    replace(BASE, window=9),
    replace(BASE, head_dim=80),
    replace(BASE, v_rank=37),
]
CASES: list[tuple[Implementation, Case]] = [
    *(("torch", case) for case in [*GRID, *SHAPES]),
    *(
        ("torch", replace(case, dtype=dtype))
        for dtype in (torch.bfloat16, torch.float16)
        for case in NARROW
    ),
    *(("triton", case) for case in GRID if case.longest < 1000),
    *(("triton", replace(case, dtype=HALF)) for case in [*LENGTHS, *FAR, *SHAPES]),
]
IMPLEMENTATIONS: list[Implementation] = ["reference", "torch", "triton"]
everywhere = pytest.mark.parametrize("implementation", IMPLEMENTATIONS)


@pytest.mark.parametrize(("implementation", "case"), CASES, ids=str)
def test_is_as_exact_as_plain_pytorch(implementation: Implementation, case: Case) -> None:
    problem = make(case, device=device_of(implementation))
    assert_close(run(problem, implementation), problem)


@pytest.mark.parametrize("case", [c for c in [*GRID, *SHAPES] if c.longest < 200], ids=str)
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


@everywhere
def test_adapter_changes_the_result(implementation: Implementation) -> None:
    problem = make(replace(BASE, adapters=(0, 1)), device=device_of(implementation))
    plain = run(without_adapters(problem), implementation)
    changes = (run(problem, implementation) - plain).split([1, 5, 16])
    assert all(change.abs().max() > 0.1 for change in changes)


@everywhere
def test_adapter_without_a_slot_gets_plain_attention(implementation: Implementation) -> None:
    plain = without_adapters(make(BASE, device=device_of(implementation)))
    adapters = [0, 1, 0]
    batch = replace(
        plain.batch,
        adapter_index=plain.batch.adapter_index.new_tensor(adapters),
        host_adapter_index=adapters,
    )
    problem = replace(plain, batch=batch)
    assert torch.equal(run(problem, implementation), run(plain, implementation))


@everywhere
def test_no_adapter_never_reads_the_lr_block(implementation: Implementation) -> None:
    problem = without_adapters(make(replace(BASE, k_rank=4), device=device_of(implementation)))
    assert problem.pages.lr is not None
    problem.pages.lr.fill_(float("nan"))
    assert_close(run(problem, implementation), problem)


@everywhere
def test_queries_beyond_the_batch_are_left_alone(implementation: Implementation) -> None:
    problem = make(BASE, device=device_of(implementation))
    padded = torch.cat((problem.q, torch.full_like(problem.q[:3], float("nan"))))
    out = run(replace(problem, q=padded), implementation, torch.full_like(padded, 7.0))
    assert (out[-3:] == 7).all()
    assert_close(out[:-3], problem)


@everywhere
@pytest.mark.parametrize("lens", [(), ((0, 5),), ((0, 5), (0, 16))], ids=str)
def test_nobody_asks(implementation: Implementation, lens: tuple[tuple[int, int], ...]) -> None:
    problem = make(replace(BASE, lens=lens), device=device_of(implementation))
    assert run(problem, implementation).shape == (0, 6, 64)


@everywhere
def test_strided_queries(implementation: Implementation) -> None:
    problem = make(BASE, device=device_of(implementation))
    wide = torch.empty(*problem.q.shape[:2], 2 * problem.q.shape[2], device=problem.q.device)
    heads_first = wide.view(6, -1, 128).transpose(0, 1)
    for strided in (wide[..., :64], wide[..., ::2], heads_first[..., :64]):
        out = run(replace(problem, q=strided.copy_(problem.q)), implementation)
        assert_close(out, problem)


def test_strided_output() -> None:
    problem = make(BASE)
    out = torch.empty(*problem.q.shape[:2], 2 * problem.q.shape[2])[..., ::2]
    assert_close(run(problem, "torch", out), problem)


@pytest.mark.parametrize("implementation", ["torch", "triton"])
def test_repeats_are_bitwise_equal(implementation: Implementation) -> None:
    case = Case(lens=((1, 50), (12, 20), (1, 16)), k_rank=4, kv_heads=1, dtype=HALF)
    problem = make(case, device=device_of(implementation))
    first = run(problem, implementation)
    repeats = 200 if problem.q.is_cuda else 3
    assert all(torch.equal(run(problem, implementation), first) for _ in range(repeats))
