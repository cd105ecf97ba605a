"""What is compiled before serving begins is what serving launches."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.attention.problems import DEVICE, HALF, Case, make

from lragent.attention.gpu import TritonBackend, launch, project, relaunch, warm, write
from lragent.attention.gpu.layer import Layer, Sequences


def test_serving_finds_its_launches(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(relaunch, "_launches", {})
    for remembered in (project._rows, write._launch):
        remembered.cache_clear()
    monkeypatch.setattr(warm, "MOST_SPLITS", 8)
    case = Case(lens=((1, 60), (20, 40), (1, 7)), kv_heads=1, group=2, slots=1, dtype=HALF)
    problem = make(case, device=DEVICE)
    pages, tables = problem.pages, problem.tables
    pages.k.zero_()
    pages.v.zero_()
    assert pages.lr is not None
    pages.lr.zero_()
    down = torch.zeros(3, tables.v_rank, 48, dtype=HALF, device=pages.k.device)
    warm.warm_up(
        pages, tables, down, heads=2, columns=1, scale=problem.scale, max_tokens=32,
        max_requests=4, max_context=64,
    )  # fmt: skip
    known = kernels()
    assert {name for name, _ in known} >= {"attend_kernel", "write_kernel", "rows_kernel"}
    backend = TritonBackend()
    backend.attend(problem.q, pages, problem.batch, tables, scale=problem.scale)
    index = torch.zeros(5, 1, dtype=torch.int32, device=down.device)
    backend.project(down.new_zeros(5, 48), down, index)
    # Short prompts, too many for small tiles; and every number of shares.
    many = make(replace(case, lens=((60, 60),) * 4), device=DEVICE)
    backend.attend(many.q, many.pages, many.batch, many.tables, scale=many.scale)
    layer = Layer.of(pages, tables, None)
    one = Sequences.of(problem.batch, slice(0, 1))
    for splits in (1, 3, 8):
        launch.prepare_attend(
            problem.q[:1], problem.q[:1], problem.batch.cu_seqlens_q[:2], layer, one,
            problem.scale, 0, 60, True, 1, 1, splits=splits,
        )  # fmt: skip
    assert kernels() == known
    for block in (pages.k, pages.v, pages.lr):
        assert not block.any()


def kernels() -> set[tuple[str, str]]:
    """Kernels with their constants: strides that are multiples of 16 alike are compiled alike."""
    return {(launch.kernel.__name__, str(launch.options)) for launch in relaunch._launches.values()}
