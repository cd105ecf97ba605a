"""The expansion of a context into contiguous K and V."""

from __future__ import annotations

import pytest
import torch
from tests.attention.gpu.problems import DEVICE, HALF, Problem, assert_within, make

from lragent.attention.gpu.layer import Layer, Sequences
from lragent.attention.gpu.prefill import prepare_expand
from lragent.attention.naive import rotate


def contiguous(problem: Problem, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Full K and V of every sequence, one after the other, by PyTorch in ``dtype``."""
    pages, batch, tables = problem.pages, problem.batch, problem.tables
    keys, values = [], []
    for s, tokens in enumerate(batch.host_seq_lens):
        where = torch.arange(tokens)
        page = torch.tensor(batch.host_block_tables[s])[where // pages.page_size].to(DEVICE)
        row = (where % pages.page_size).to(DEVICE)
        k, v = (block[page, :, row].to(dtype) for block in (pages.k, pages.v))
        if batch.uses_lora(s) and pages.lr is not None:
            adapter = batch.host_adapter_index[s]
            z = pages.lr[page, row, batch.host_lr_slot[s]].to(dtype)
            if tables.v_b is not None:
                v = v + (z[:, : tables.v_rank] @ tables.v_b[adapter].to(dtype)).view_as(v)
            if tables.k_b is not None and problem.rotation is not None:
                term = (z[:, tables.v_rank :] @ tables.k_b[adapter].to(dtype)).view_as(k)
                cos = problem.rotation.cos[:tokens, None].to(dtype)
                k = k + rotate(term, cos, problem.rotation.sin[:tokens, None].to(dtype))
        keys.append(k)
        values.append(v)
    return torch.cat(keys), torch.cat(values)


@pytest.mark.parametrize("ranks", [(0, 0), (8, 0), (5, 4), (100, 70)], ids=str)
@pytest.mark.parametrize("head_dim", [64, 96])
@pytest.mark.parametrize("dtype", [torch.float32, HALF], ids=str)
def test_expands_every_context(ranks: tuple[int, int], head_dim: int, dtype: torch.dtype):
    lens = [70, 1, 33, 64]
    problem = make([1] * 4, lens, head_dim=head_dim, v_rank=ranks[0], k_rank=ranks[1], dtype=dtype)
    pages, batch, tables, rotation = problem.pages, problem.batch, problem.tables, problem.rotation
    layer, sequences = Layer.of(pages, tables, rotation), Sequences.of(batch)
    starts = torch.tensor([0, 70, 71, 104, 168], dtype=torch.int32, device=DEVICE)
    k = torch.full((sum(lens), 2, head_dim), float("nan"), dtype=dtype, device=DEVICE)
    v = torch.full_like(k, float("nan"))
    prepare_expand(k, v, starts, layer, sequences)(layer)
    for ours, truth, peer in zip(
        (k, v), contiguous(problem, torch.float64), contiguous(problem, dtype), strict=True
    ):
        assert_within(ours, truth, peer)
