"""What is compiled before serving begins is what serving launches."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.attention.triton.problems import HALF, make

from lragent.attention.triton import (
    flash_lora_attention,
    launch,
    launch_project,
    project_lr,
    relaunch,
    write,
)
from lragent.attention.triton.layer import Layer, Sequences
from lragent.attention.triton.warm import warm_up


def test_serving_finds_its_launches(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(relaunch, "_launches", {})
    for remembered in (launch_project._rows, write._launch):
        remembered.cache_clear()
    problem = make([1, 20, 1], [90, 60, 7], dtype=HALF, slots=1)
    pages, tables = problem.pages, problem.tables
    pages.k.zero_()
    pages.v.zero_()
    assert pages.lr is not None
    pages.lr.zero_()
    down = torch.zeros(3, tables.v_rank, 96, dtype=HALF, device=pages.k.device)
    warm_up(
        pages, tables, down, heads=4, columns=1, scale=problem.scale, max_tokens=64,
        max_requests=4, max_context=128,
    )  # fmt: skip
    known = kernels(relaunch._launches)
    assert {name for name, _ in known} >= {"attend_kernel", "write_kernel", "rows_kernel"}
    flash_lora_attention(problem.q, pages, problem.batch, tables, scale=problem.scale)
    index = torch.zeros(5, 1, dtype=torch.int32, device=down.device)
    project_lr(down.new_zeros(5, 96), down, index)
    # Short prompts, too many for small tiles; and every number of shares.
    many = make([60] * 4, [60] * 4, dtype=HALF, slots=1)
    flash_lora_attention(many.q, many.pages, many.batch, many.tables, scale=many.scale)
    layer = Layer.of(pages, tables, None)
    one = Sequences.of(problem.batch, slice(0, 1))
    for splits in (1, 3, 9, 17, 64):
        launch.prepare_attend(
            problem.q[:1], problem.q[:1], problem.batch.cu_seqlens_q[:2], layer, one,
            problem.scale, 0, 90, True, 1, 1, splits=splits,
        )  # fmt: skip
    assert kernels(relaunch._launches) == known
    for block in (pages.k, pages.v, pages.lr):
        assert not block.any()


def kernels(launches: dict[Any, Any]) -> set[tuple[str, str]]:
    """Kernels with their constants: strides that are multiples of 16 alike are compiled alike."""
    return {(key[0].__name__, str(key[3])) for key in launches}
