"""The LR projection against float64, for single slots, whole groups and mixed batches."""

from __future__ import annotations

import itertools

import pytest
import torch
from tests.attention.triton.problems import DEVICE, HALF, assert_within
from tests.attention.triton.projections import assert_projects

from lragent.attention.project import project_lr_reference, project_lr_torch
from lragent.attention.triton import launch_project as launch_project_module
from lragent.attention.triton import project_lr
from lragent.attention.triton.launch_project import (
    launch_project,
    tokens_by_tile,
)
from lragent.attention.triton.tiles_project import (
    ProjectTile,
    RowsTile,
    project_tile,
)


@pytest.mark.parametrize("tokens", [5, 150, 300])
@pytest.mark.parametrize("slots", [1, 3])
@pytest.mark.parametrize("width", [8, 24])
@pytest.mark.parametrize("dtype", [torch.float32, HALF], ids=str)
def test_matches_float64(tokens: int, slots: int, width: int, dtype: torch.dtype):
    generator = torch.Generator().manual_seed(tokens)
    x = torch.randn(tokens, 192, generator=generator).to(dtype).to(DEVICE)
    a = (torch.randn(4, width, 192, generator=generator) * 192**-0.5).to(dtype).to(DEVICE)
    # Runs of tokens of one sequence share their choice; some tokens fill no slot.
    choices = torch.randint(-1, 4, (max(1, tokens // 20), slots), generator=generator)
    index = choices[torch.arange(tokens) * choices.shape[0] // tokens].to(torch.int32).to(DEVICE)
    truth = torch.zeros(tokens, slots, width, dtype=torch.float64, device=DEVICE)
    for row in range(4):
        chosen = (index == row)[..., None]
        truth = torch.where(chosen, (x.double() @ a[row].double().T)[:, None], truth)
    result = project_lr(x, a, index)
    assert result.dtype == dtype
    assert_within(result, truth, project_lr_torch(x, a, index))
    assert (result[index < 0] == 0).all()


def test_unread_rows_may_hold_anything():
    x = torch.randn(2, 64, device=DEVICE)
    a = torch.full((3, 8, 64), float("nan"), device=DEVICE)
    a[1] = 0.5
    index = torch.tensor([[1, -1], [-1, 1]], dtype=torch.int32, device=DEVICE)
    result = project_lr(x, a, index)
    expected = project_lr_reference(x, a, index)
    assert torch.allclose(result, expected, atol=1e-5)


@pytest.mark.parametrize("tokens", [3, 70])
def test_rows_behind_the_last_token_are_left_alone(tokens: int):
    x = torch.randn(tokens, 64, device=DEVICE)
    a = torch.randn(3, 8, 64, device=DEVICE)
    index = torch.ones(tokens + 5, 2, dtype=torch.int32, device=DEVICE)
    out = torch.full((tokens + 5, 2, 8), float("nan"), device=DEVICE)
    launch_project(x, a, index, out)
    expected = project_lr(x, a, index[:tokens])
    assert torch.equal(out[:tokens], expected)
    assert out[tokens:].isnan().all()


def test_no_tokens():
    x = torch.empty(0, 64, device=DEVICE)
    index = torch.empty(0, 2, dtype=torch.int32, device=DEVICE)
    assert project_lr(x, torch.empty(1, 8, 64, device=DEVICE), index).shape == (0, 2, 8)


@pytest.mark.parametrize(
    "tile",
    [RowsTile(1, 1, 512, 0, 8, 1), RowsTile(4, 4, 128, 0, 4, 1), RowsTile(16, 8, 32, 8, 8, 3)],
    ids=["one-token", "four-tokens", "matrix-unit"],
)
@pytest.mark.parametrize("hidden", [512, 400])
def test_few_tokens_with_choices_of_their_own(tile: RowsTile, hidden: int):
    assert_projects(tile, HALF, 4, hidden, ((5, 2), (1, 2)))


def test_every_number_of_tokens_has_a_tile_that_fits():
    for tokens, slots, columns, itemsize in itertools.product(
        (1, 2, 3, 16, 33, 64, 129, 4096), (1, 3, 8), (4, 16, 64, 300), (2, 4)
    ):
        dtype = HALF if itemsize == 2 else torch.float32
        tile = project_tile(tokens, slots, columns, 576, dtype, 132)
        if isinstance(tile, RowsTile) and not tile.shares:
            # What one thread adds up stays in its registers.
            products = tile.block_t * tile.block_w * tile.block_d
            assert products <= 128 * 32 * tile.warps
        assert tile.block_d <= 1024


@pytest.mark.parametrize("splits", [2, 3, 8])
def test_shares_are_added_the_same_every_time(splits: int):
    generator = torch.Generator().manual_seed(splits)
    a = (torch.randn(4, 16, 512, generator=generator) * 512**-0.5).to(DEVICE, HALF)
    for tokens, slots in ((70, 3), (9, 1), (40, 4)):
        x = torch.randn(tokens, 512, generator=generator).to(DEVICE, HALF)
        index = torch.randint(-1, 4, (1, slots), generator=generator).expand(tokens, slots)
        index = index.to(DEVICE, torch.int32).contiguous()
        found = []
        for _ in range(3):
            out = torch.full((tokens, slots, 16), float("nan"), dtype=HALF, device=DEVICE)
            launch_project(x, a, index, out, ProjectTile(16, 32, 64, splits, 4, 3))
            found.append(out)
        assert torch.equal(found[0], found[1])
        assert torch.equal(found[0], found[2])
        truth = project_lr_reference(x.double(), a.double(), index)
        assert_within(found[0], truth, project_lr_torch(x, a, index))


@pytest.mark.parametrize(("slots", "columns"), [(1, 16), (3, 48), (5, 128), (8, 16)])
@pytest.mark.parametrize("hidden", [576, 4096])
def test_some_numbers_of_tokens_get_every_tile(
    hidden: int, slots: int, columns: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(launch_project_module, "multiprocessors", lambda device: 132)
    x = torch.empty(3000, hidden, dtype=HALF, device="meta")
    a = torch.empty(3, columns, hidden, dtype=HALF, device="meta")
    index = torch.empty(3000, slots, dtype=torch.int32, device="meta")
    some = tokens_by_tile(x, a, index, x.new_empty(3000, slots, columns))

    def tile(tokens: int):
        return project_tile(tokens, slots, columns, hidden, HALF, 132)

    assert len({tile(tokens) for tokens in some}) == len(some)
    assert {tile(tokens) for tokens in some} == {tile(tokens) for tokens in range(1, 3001)}
