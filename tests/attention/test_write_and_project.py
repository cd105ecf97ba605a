from __future__ import annotations

import pytest
import torch
from tests.attention.problems import HALF, device_of, nan_memory

import lragent.attention.cpu.cache as write_module
from lragent.attention import Implementation, PageViews, project_lr, write_pages
from lragent.cache.layout import PageLayout

IMPLEMENTATIONS: list[Implementation] = ["reference", "torch", "triton"]
LAYOUT = PageLayout(page_size=4, kv_heads=2, head_dim=8, slots=3, v_rank=2, k_rank=1, itemsize=4)


@pytest.fixture(autouse=True, params=[0, write_module.FEW_TOKENS], ids=["indexed", "few"])
def _both_ways(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few tokens are stored one by one, many by indices: each test runs on both."""
    monkeypatch.setattr(write_module, "FEW_TOKENS", request.param)


def half(implementation: Implementation) -> torch.dtype:
    """Triton's interpreter cuts off what bfloat16 cannot hold, instead of rounding."""
    return HALF if implementation == "triton" else torch.bfloat16


def write(
    implementation: Implementation,
    places: list[int],
    base: list[bool],
    slots: list[list[int]],
    rows: list[list[int]] | None = None,
    *,
    with_lr: bool = True,
    pages: PageViews | None = None,
) -> tuple[PageViews, torch.Tensor, torch.Tensor, torch.Tensor]:
    gen, device = torch.Generator().manual_seed(0), device_of(implementation)
    k = torch.randn(len(places), 2, 8, generator=gen).to(device)
    v = torch.randn(len(places), 2, 8, generator=gen).to(device)
    lr = torch.randn(len(places), 4, 3, generator=gen).to(device)
    rows = rows or [list(range(len(slots[0])))] * len(places)
    pages = pages or nan_memory(LAYOUT, 5, torch.float32, device=device)
    write_pages(
        k,
        v,
        lr if with_lr else None,
        pages,
        torch.tensor(places, device=device),
        torch.tensor(base, device=device),
        torch.tensor(rows, dtype=torch.int32, device=device),
        torch.tensor(slots, dtype=torch.int32, device=device),
        implementation=implementation,
    )
    return pages, k, v, lr


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_every_block_lands_in_its_place(implementation: Implementation) -> None:
    pages, k, v, lr = write(implementation, [9, 2], [True, True], [[0, 2], [1, -1]])
    assert pages.lr is not None
    assert torch.equal(pages.k[2, :, 1], k[0])
    assert torch.equal(pages.v[2, :, 1], v[0])
    assert torch.equal(pages.k[0, :, 2], k[1])
    assert torch.equal(pages.lr[2, 1, 0], lr[0, 0])
    assert torch.equal(pages.lr[2, 1, 2], lr[0, 1])
    assert torch.equal(pages.lr[0, 2, 1], lr[1, 0])
    assert pages.k.isnan().sum() == pages.k.numel() - 2 * 16
    assert pages.lr.isnan().sum() == pages.lr.numel() - 3 * 3


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_each_slot_gets_the_row_that_is_named(implementation: Implementation) -> None:
    rows = [[3, 0], [2, -1]]
    pages, _, _, lr = write(implementation, [9, 2], [True, True], [[0, 2], [1, 0]], rows)
    assert pages.lr is not None
    assert torch.equal(pages.lr[2, 1, 0], lr[0, 3])
    assert torch.equal(pages.lr[2, 1, 2], lr[0, 0])
    assert torch.equal(pages.lr[0, 2, 1], lr[1, 2])
    assert not pages.lr[0, 2, 0].any(), "no row means zeros"


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_existing_base_rows_stay(implementation: Implementation) -> None:
    pages, k, _, lr = write(implementation, [5, 6], [False, True], [[1], [1]])
    assert pages.lr is not None
    assert pages.k[1, :, 1].isnan().all()
    assert pages.v[1, :, 1].isnan().all()
    assert torch.equal(pages.k[1, :, 2], k[1])
    assert torch.equal(pages.lr[1, 1:3, 1], lr[:, 0])


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_skipped_tokens_and_slots_write_nothing(implementation: Implementation) -> None:
    pages, _, _, _ = write(implementation, [-1, 7], [True, False], [[0, 1], [-1, -1]])
    assert pages.lr is not None
    for block in (pages.k, pages.v, pages.lr):
        assert block.isnan().all()


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_no_lr_rows(implementation: Implementation) -> None:
    pages, _, v, _ = write(implementation, [4], [True], [[2]], with_lr=False)
    assert pages.lr is not None
    assert torch.equal(pages.v[1, :, 0], v[0])
    assert pages.lr.isnan().all()


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_rows_are_stored_in_the_pages_dtype(implementation: Implementation) -> None:
    layout = PageLayout(4, 2, 8, 3, 2, 1, itemsize=2)
    dtype, device = half(implementation), device_of(implementation)
    pages = nan_memory(layout, 2, dtype, device=device)
    _, k, _, lr = write(implementation, [3], [True], [[0]], pages=pages)
    assert pages.lr is not None
    assert torch.equal(pages.k[0, :, 3], k[0].to(dtype))
    assert torch.equal(pages.lr[0, 3, 0], lr[0, 0].to(dtype))


def test_every_implementation_writes_the_same_bytes() -> None:
    gen = torch.Generator().manual_seed(1)
    places = torch.randperm(20, generator=gen)[:12]
    places[3] = -1
    base = torch.rand(12, generator=gen) > 0.4
    slots = torch.stack([torch.randperm(4, generator=gen)[:2] - 1 for _ in range(12)])
    rows = torch.randint(-1, 4, (12, 2), generator=gen).tolist()
    blocks = []
    for implementation in IMPLEMENTATIONS:
        pages, *_ = write(implementation, places.tolist(), base.tolist(), slots.tolist(), rows)
        assert pages.lr is not None
        blocks.append([block.cpu().nan_to_num(99.0) for block in (pages.k, pages.v, pages.lr)])
    for first, *others in zip(*blocks, strict=True):
        assert all(torch.equal(first, other) for other in others)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("slots", [1, 3])
@pytest.mark.parametrize("narrow", [False, True], ids=["fp32", "half"])
def test_projection(implementation: Implementation, slots: int, narrow: bool) -> None:
    gen, device = torch.Generator().manual_seed(2), device_of(implementation)
    dtype = half(implementation) if narrow else torch.float32
    x = torch.randn(9, 48, generator=gen).to(device, dtype)
    a = torch.randn(4, 5, 48, generator=gen).to(device, dtype)
    a[2] = float("nan")
    choices = torch.tensor([-1, 0, 1, 3])
    index = choices[torch.randint(0, 4, (9, slots), generator=gen)].to(device, torch.int32)
    z = project_lr(x, a, index, implementation=implementation)
    assert z.shape == (9, 4, 5)
    assert z.dtype == dtype
    for token in range(9):
        for column in range(slots):
            row = int(index[token, column])
            if row >= 0:
                expected = a[row].double() @ x[token].double()
                torch.testing.assert_close(z[token, row], expected.to(dtype))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_projection_of_nothing(implementation: Implementation) -> None:
    a = torch.randn(2, 3, 8, device=device_of(implementation))
    index = torch.empty(0, 2, dtype=torch.int32, device=a.device)
    empty = project_lr(a.new_empty(0, 8), a, index, implementation=implementation)
    assert empty.shape == (0, 2, 3)  # two A
