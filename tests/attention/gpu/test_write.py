"""The cache write against the indexed stores of PyTorch, on poisoned pages."""

from __future__ import annotations

import pytest
import torch
from tests.attention.problems import DEVICE, HALF

from lragent.attention import PageViews
from lragent.attention.base import page_views
from lragent.attention.gpu import TritonBackend
from lragent.attention.naive import NaiveBackend
from lragent.cache.layout import PageLayout


def pages(heads: int, head_dim: int, width: int, slots: int, dtype: torch.dtype) -> PageViews:
    layout = PageLayout(16, heads, head_dim, slots, width, 0, dtype.itemsize)
    raw = torch.full((5, layout.page_elements), -3.0, dtype=dtype, device=DEVICE)
    return page_views(raw, layout)


@pytest.mark.parametrize("head_dim", [64, 80])
@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, HALF], ids=str)
@pytest.mark.parametrize("columns", [0, 1, 3])
def test_writes_what_the_reference_writes(
    head_dim: int, heads: int, dtype: torch.dtype, columns: int
):
    generator = torch.Generator().manual_seed(3)
    tokens, slots, width, choices = 7, 4, 5, 6
    ours, expected = (pages(heads, head_dim, width, slots, dtype) for _ in range(2))

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(dtype).to(DEVICE)

    k = random(tokens, 2, heads, head_dim)[:, 1]
    v = random(tokens, heads, head_dim)
    lr = random(tokens, choices, width) if columns else None
    mapping = torch.tensor([3, 70, -1, 16, 0, 79, 33], device=DEVICE)
    base = torch.tensor([1, 1, 1, 0, 1, 0, 1], dtype=torch.bool, device=DEVICE)
    to = torch.stack([torch.randperm(slots, generator=generator) for _ in range(tokens)])
    to[torch.rand(to.shape, generator=generator) < 0.3] = -1
    to = to[:, :columns].to(torch.int32).to(DEVICE)
    rows = torch.randint(-1, choices, to.shape, generator=generator, dtype=torch.int32).to(DEVICE)
    TritonBackend().write(k, v, lr, ours, mapping, base, rows, to)
    NaiveBackend().write(k, v, lr, expected, mapping, base, rows, to)
    assert ours.lr is not None
    assert expected.lr is not None
    for name in ("k", "v", "lr"):
        assert torch.equal(getattr(ours, name), getattr(expected, name)), name


def test_nothing_to_write():
    ours = pages(1, 64, 4, 1, torch.float32)
    empty = torch.empty(0, 1, 64, device=DEVICE)
    none = torch.empty(0, dtype=torch.int64, device=DEVICE)
    slots = torch.empty(0, 1, dtype=torch.int32, device=DEVICE)
    TritonBackend().write(empty, empty, None, ours, none, none.bool(), slots, slots)
    assert (ours.k == -3.0).all()
