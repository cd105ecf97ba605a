"""What the torch version promises beside exactness."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.attention.problems import Case, Memory, Problem, make, run
from torch.utils._python_dispatch import TorchDispatchMode

from lragent.attention import AttentionBatch

MIXED = Case(
    lens=((1, 300), (1, 2500), (40, 90), (64, 64)),
    adapters=(0, 1, 1, -1),
    kv_heads=3,
    scattered=False,
)


def alone(problem: Problem, index: int, table: list[int]) -> torch.Tensor:
    """The result of one sequence in a batch of its own."""
    batch = problem.batch
    first, last = batch.host_cu_seqlens_q[index : index + 2]
    single = AttentionBatch.build(
        [table],
        [last - first],
        [batch.host_seq_lens[index]],
        [batch.host_adapter_index[index]],
        [batch.host_lr_slot[index]],
    )
    return run(replace(problem, q=problem.q[first:last], batch=single), "torch")


@pytest.mark.parametrize("k_rank", [0, 4], ids=["v", "kv"])
def test_repeats_are_bitwise_equal(k_rank: int) -> None:
    problem = make(replace(MIXED, k_rank=k_rank))
    first = run(problem, "torch")
    for _ in range(8):
        assert torch.equal(run(replace(problem, batch=replace(problem.batch)), "torch"), first)


@pytest.mark.parametrize("memory", ["page", "head-major"])
@pytest.mark.parametrize("k_rank", [0, 4], ids=["v", "kv"])
@pytest.mark.parametrize("scattered", [False, True], ids=["run", "scattered"])
def test_neighbours_do_not_change_a_sequence(k_rank: int, scattered: bool, memory: Memory) -> None:
    problem = make(replace(MIXED, k_rank=k_rank, scattered=scattered, memory=memory))
    together = run(problem, "torch").split([new for new, _ in MIXED.lens])
    for index, part in enumerate(together):
        table = problem.batch.host_block_tables[index]
        assert torch.equal(alone(problem, index, table), part)


@pytest.mark.parametrize("memory", ["page", "head-major"])
@pytest.mark.parametrize("index", range(4), ids=["300", "2500", "40of90", "64"])
def test_the_pages_do_not_change_a_sequence(index: int, memory: Memory) -> None:
    case = replace(MIXED, memory=memory)
    run_of_pages, scattered = make(case), make(replace(case, scattered=True))
    assert run_of_pages.batch.host_block_tables != scattered.batch.host_block_tables
    queries = [new for new, _ in MIXED.lens]
    parts = [run(problem, "torch").split(queries)[index] for problem in (run_of_pages, scattered)]
    assert torch.equal(*parts)


def test_every_layer_reuses_the_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = make(MIXED)
    first = run(problem, "torch")
    with monkeypatch.context() as patch:
        for name in ("plan._plan", "decode._Part"):
            patch.delattr(f"lragent.attention.cpu.{name}")
        assert torch.equal(run(problem, "torch"), first)
    assert torch.equal(run(replace(problem, batch=replace(problem.batch)), "torch"), first)


class Products(TorchDispatchMode):
    """Records the shapes of matrix products: the right operand and the result."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[tuple[int, ...], tuple[int, ...]]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket in (
            torch.ops.aten.mm,
            torch.ops.aten.bmm,
            torch.ops.aten.addmm,
            torch.ops.aten.baddbmm,
            torch.ops.aten.baddbmm_,
        ):
            right = [x for x in args if isinstance(x, torch.Tensor)][-1]
            self.seen.append((tuple(right.shape), tuple(result.shape)))
        return result


@pytest.mark.parametrize("lens", [((1, 1000),), ((8, 1000),)], ids=["decode", "chunk"])
def test_values_are_never_expanded_for_cached_tokens(lens: tuple[tuple[int, int], ...]) -> None:
    case = Case(lens=lens, adapters=(0,), kv_heads=3, v_rank=11)
    problem = make(case)
    run(problem, "torch")
    with Products() as products:
        run(problem, "torch")
    by_b = [shape for right, shape in products.seen if 11 in right and 64 in right]
    assert by_b, "B is multiplied somewhere"
    queries = lens[0][0] * case.kv_heads * case.group
    for shape in by_b:
        assert torch.Size(shape).numel() == queries * case.head_dim


def test_the_counter_sees_an_expansion() -> None:
    z, b = torch.ones(1000, 11), torch.ones(11, 3 * 64)
    with Products() as products:
        torch.mm(z, b)
    assert products.seen == [((11, 192), (1000, 192))]
