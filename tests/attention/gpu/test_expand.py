"""The expansion of a context into contiguous K and V."""

from __future__ import annotations

import pytest
import torch
from tests.attention.problems import DEVICE, HALF, Case, assert_within, expanded, make

from lragent.attention.gpu.layer import Layer, Sequences
from lragent.attention.gpu.prefill import prepare_expand


@pytest.mark.parametrize("ranks", [(0, 0), (8, 0), (5, 4), (100, 70)], ids=str)
@pytest.mark.parametrize("head_dim", [64, 96])
@pytest.mark.parametrize("dtype", [torch.float32, HALF], ids=str)
def test_expands_every_context(ranks: tuple[int, int], head_dim: int, dtype: torch.dtype):
    lens = [70, 1, 33, 64]
    case = Case(
        lens=tuple((1, tokens) for tokens in lens),
        adapters=(-1, 0, 1),
        head_dim=head_dim,
        v_rank=ranks[0],
        k_rank=ranks[1],
        dtype=dtype,
    )
    problem = make(case, device=DEVICE)
    pages, batch, tables, rotation = problem.pages, problem.batch, problem.tables, problem.rotation
    layer, sequences = Layer.of(pages, tables, rotation), Sequences.of(batch)
    starts = torch.tensor([0, 70, 71, 104, 168], dtype=torch.int32, device=DEVICE)
    k = torch.full((sum(lens), 2, head_dim), float("nan"), dtype=dtype, device=DEVICE)
    v = torch.full_like(k, float("nan"))
    prepare_expand(k, v, starts, layer, sequences)(layer)
    truth, peer = expanded(problem, torch.float64), expanded(problem, dtype)
    for index, ours in enumerate((k, v)):
        assert_within(ours, *(torch.cat([pair[index] for pair in all_]) for all_ in (truth, peer)))
