"""The dense kernel against the float64 answer, over contiguous keys and values."""

from __future__ import annotations

import math

import pytest
import torch
from tests.attention.gpu.problems import DEVICE, HALF, assert_within

from lragent.attention.gpu.prefill import launch_dense
from lragent.attention.gpu.tiles import Tile


def answer(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    lens: list[tuple[int, int]],
    window: int,
    dtype: torch.dtype,
) -> torch.Tensor:
    """Causal attention of each (queries, context) by PyTorch in ``dtype``."""
    out = torch.zeros_like(q, dtype=dtype)
    row = token = 0
    group = q.shape[1] // k.shape[1]
    for queries, context in lens:
        keys, values = (
            x[token : token + context].to(dtype).repeat_interleave(group, 1) for x in (k, v)
        )
        part = q[row : row + queries].to(dtype)
        scores = torch.einsum("qhd,khd->hqk", part, keys) * q.shape[2] ** -0.5
        position = torch.arange(context - queries, context, device=q.device)[:, None]
        key = torch.arange(context, device=q.device)[None, :]
        seen = (key <= position) & (key > position - (window or context))
        scores = scores.masked_fill(~seen, -math.inf)
        out[row : row + queries] = torch.einsum("hqk,khd->qhd", scores.softmax(-1), values)
        row, token = row + queries, token + context
    return out


@pytest.mark.parametrize("head_dim", [80, 128])
@pytest.mark.parametrize("window", [0, 20])
@pytest.mark.parametrize("heads", [(4, 2), (3, 1)], ids=str)
def test_matches_float64(head_dim: int, window: int, heads: tuple[int, int]):
    generator = torch.Generator().manual_seed(1)
    lens = [(9, 40), (70, 70), (3, 65)]
    rows, tokens = (sum(column) for column in zip(*lens, strict=True))

    def random(count: int, heads: int) -> torch.Tensor:
        return torch.randn(count, heads, head_dim, generator=generator).to(HALF).to(DEVICE)

    q, k, v = random(rows, heads[0]), random(tokens, heads[1]), random(tokens, heads[1])
    starts_q = torch.tensor([0, 9, 79, 82], dtype=torch.int32, device=DEVICE)
    starts_k = torch.tensor([0, 40, 110, 175], dtype=torch.int32, device=DEVICE)
    out = torch.full_like(q, math.nan)
    tile = Tile(64, 32, 4, 2)
    launch_dense(q, out, k, v, starts_q, starts_k, head_dim**-0.5, window, tile)
    truth = answer(q, k, v, lens, window, torch.float64)
    assert_within(out, truth, answer(q, k, v, lens, window, HALF))


def test_only_its_own_rows_are_written():
    q = torch.randn(12, 2, 64, device=DEVICE).to(HALF)
    k = torch.randn(16, 2, 64, device=DEVICE).to(HALF)
    out = torch.full_like(q, 7.0)
    starts_q = torch.tensor([4, 10], dtype=torch.int32, device=DEVICE)
    starts_k = torch.tensor([0, 16], dtype=torch.int32, device=DEVICE)
    launch_dense(q, out, k, k, starts_q, starts_k, 0.125, 0, Tile(64, 32, 4, 2))
    assert (out[:4] == 7.0).all()
    assert (out[10:] == 7.0).all()
    expected = answer(q[4:10], k, k, [(6, 16)], 0, torch.float64)
    assert_within(out[4:10], expected, answer(q[4:10], k, k, [(6, 16)], 0, HALF))
