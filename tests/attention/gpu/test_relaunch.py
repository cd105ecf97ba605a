"""Launches that reuse what the first one found."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.attention.problems import DEVICE, HALF, Case, Problem, assert_close, make, run
from triton.backends.nvidia.driver import CudaLauncher

from lragent.attention.gpu import backend, relaunch
from lragent.attention.gpu.relaunch import Launch, is_known


class Kernel:
    """Stands in for a Triton kernel; compiling and launching are noted."""

    arg_names = ("x", "y", "count", "BLOCK")

    def __init__(self, compiled: Any = None) -> None:
        self.notes: list[tuple[Any, ...]] = []
        self.compiled = compiled or Compiled

    def __getitem__(self, grid: Any) -> Any:
        def compile_and_launch(*args: Any, **options: Any) -> Any:
            self.notes.append(("compiled", grid, args, options))
            return self.compiled(self.notes)

        return compile_and_launch


class Compiled:
    """What Triton keeps of a compiled kernel."""

    function = "function"
    packed_metadata = "metadata"

    def __init__(self, notes: list[tuple[Any, ...]]):
        self.notes = notes

    def run(
        self, gridX: int, gridY: int, gridZ: int, stream: str, function: str, *args: Any
    ) -> None:  # fmt: skip
        assert (stream, function) == ("stream of 0", "function")
        assert args[:4] == ("metadata", None, None, None)
        self.notes.append(("launched", (gridX, gridY, gridZ), args[4:]))


class Unknown(Compiled):
    """One of a version of Triton that launches otherwise."""

    def run(self, grid: Any, stream: str, *args: Any) -> None:  # type: ignore[override]
        raise AssertionError("launched with arguments of another version")


def test_is_compiled_once_for_each_alignment(monkeypatch: pytest.MonkeyPatch):
    active = SimpleNamespace(get_current_stream=lambda device: f"stream of {device}")
    monkeypatch.setattr(relaunch, "driver", SimpleNamespace(active=active))
    kernel = Kernel()
    launch = Launch(kernel, torch.device("cuda", 0), {"num_warps": 4, "BLOCK": 32})
    memory = torch.zeros(64)
    assert memory.data_ptr() % 16 == 0
    x, y, shifted = memory, memory[16:], memory[1:]
    for grid, tensors, count in (
        ((1, 1, 1), (x, y), 5), ((2, 1, 1), (y, x), 6), ((1, 1, 1), (shifted, y), 7),
        ((1, 1, 1), (x, shifted), 8), ((3, 1, 1), (memory[5:], y), 9),
    ):  # fmt: skip
        launch(grid, tensors, (count,))
    assert [note[0] for note in kernel.notes] == [
        "compiled", "launched", "compiled", "compiled", "launched",
    ]  # fmt: skip
    assert kernel.notes[0][3] == {"num_warps": 4, "BLOCK": 32}
    # Addresses and numbers, then constants in the kernel's order.
    assert kernel.notes[1][1:] == ((2, 1, 1), (y.data_ptr(), x.data_ptr(), 6, 32))


def test_a_launcher_that_is_not_known_leaves_launching_to_triton():
    kernel = Kernel(Unknown)
    launch = Launch(kernel, torch.device("cuda", 0), {"num_warps": 4, "BLOCK": 32})
    x = torch.zeros(64)
    for count in (5, 6):
        launch((2, 1, 1), (x, x), (count,))
    assert kernel.notes == [
        ("compiled", (2, 1, 1), (x, x, count), {"num_warps": 4, "BLOCK": 32}) for count in (5, 6)
    ]


def test_the_installed_triton_has_a_known_launcher():
    assert is_known(object.__new__(CudaLauncher))
    assert not is_known(lambda gridX, gridY, stream, function, *args: None)
    assert not is_known(None)


@pytest.fixture
def prepared(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The strides of the queries whose launches were prepared anew."""
    strides: list[tuple[int, ...]] = []

    def prepare(runs: Any, q: torch.Tensor, *rest: Any) -> Any:
        strides.append(q.stride())
        return original(runs, q, *rest)

    original = backend.prepare
    monkeypatch.setattr(backend, "prepare", prepare)
    return strides


CASE = Case(lens=((1, 70), (9, 40), (0, 200), (1, 3)), adapters=(-1, 0, 1), dtype=HALF)


@pytest.mark.parametrize("k_rank", [0, 4])
def test_layers_share_what_a_batch_launches(k_rank: int, prepared: list[tuple[int, ...]]):
    case = replace(CASE, k_rank=k_rank)
    layers = [make(case, seed, DEVICE) for seed in (0, 1)]
    batch = layers[0].batch
    for problem in layers:
        batch.block_tables.copy_(problem.batch.block_tables)
        shared = replace(problem, batch=batch)
        for layer in (shared, moved(shared)):
            assert_close(run(layer, "triton"), problem)
    assert len(prepared) == 1


def moved(problem: Problem) -> Problem:
    """The same with queries that begin at an odd address."""
    memory = torch.empty(problem.q.numel() + 1, dtype=problem.q.dtype, device=DEVICE)[1:]
    q = memory.view(problem.q.shape)
    return replace(problem, q=q.copy_(problem.q))


def test_another_layout_gets_launches_of_its_own(prepared: list[tuple[int, ...]]):
    problem = make(replace(CASE, lens=((1, 70), (9, 40))), device=DEVICE)
    wide = torch.empty(*problem.q.shape[:2], 2 * problem.q.shape[2], dtype=HALF, device=DEVICE)
    strided = wide[..., : problem.q.shape[2]].copy_(problem.q)
    for q in (problem.q, strided):
        assert_close(run(replace(problem, q=q), "triton"), problem)
    assert prepared == [problem.q.stride(), strided.stride()]
