"""The LR projection against float64, for single slots, whole groups and mixed batches."""

from __future__ import annotations

import itertools

import pytest
import torch
from tests.attention.problems import DEVICE, HALF, assert_within
from torch import Tensor

from lragent.attention.cpu import TorchBackend
from lragent.attention.gpu import TritonBackend
from lragent.attention.gpu import project as module
from lragent.attention.gpu.project import (
    MOST_ROWS,
    RowsTile,
    launch_project,
    multiplies_all,
    rows_tile,
    tokens_by_tile,
)
from lragent.attention.naive import NaiveBackend


def taken(z: Tensor, index: Tensor) -> Tensor:
    """The rows of ``z [T, n, W]`` that ``index [T, S]`` names, zeros for -1."""
    rows = z[torch.arange(len(z), device=z.device)[:, None], index.clamp(min=0).long()]
    return rows.masked_fill((index < 0)[..., None], 0)


def assert_projects(x: Tensor, a: Tensor, index: Tensor, tile: RowsTile | None = None) -> Tensor:
    """Right, bitwise the same when repeated, and nothing written behind the last token."""
    tokens, found = len(x), []
    padded = torch.cat((index, torch.ones_like(index[:1]).expand(3, -1)))
    for _ in range(2 if x.is_cuda else 1):  # the interpreter has one order of sums
        out = x.new_full((tokens + 3, *a.shape[:2]), float("nan"))
        launch_project(x, a, padded, out, tile)
        assert out[tokens:].isnan().all()
        found.append(out[:tokens])
    assert torch.equal(taken(found[0], index), taken(found[-1], index))
    truth = NaiveBackend().project(x.double(), a.double().nan_to_num(), index)
    peer = TorchBackend().project(x, a.nan_to_num(), index)
    assert_within(taken(found[0], index), taken(truth, index), taken(peer, index))
    return found[0]


def random(tokens: int, columns: int, hidden: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """``x``, with rows that do not adjoin, and five A, of which nobody should choose the first."""
    generator = torch.Generator().manual_seed(hidden)
    a = (torch.randn(5, columns, hidden, generator=generator) * hidden**-0.5).to(DEVICE, dtype)
    a[0] = float("nan")
    wide = torch.randn(tokens, hidden + 8, generator=generator).to(DEVICE, dtype)
    return wide[:, :hidden], a


def choices(tokens: int, slots: int, alike: bool) -> Tensor:
    """``[T, S]``, the same for all tokens or mixed, with some -1."""
    generator = torch.Generator().manual_seed(tokens)
    if alike:
        index = torch.randint(1, 5, (1, slots), generator=generator).expand(tokens, slots)
    else:
        index = torch.randint(0, 5, (tokens, slots), generator=generator)
    return torch.where(index == 0, -1, index).to(DEVICE, torch.int32)


@pytest.mark.parametrize(
    "tile",
    [RowsTile(1, 1, 128, 0, 8, 1), RowsTile(4, 4, 64, 0, 4, 1), RowsTile(16, 8, 16, 8, 8, 3)],
    ids=["one-token", "four-tokens", "matrix-unit"],
)
@pytest.mark.parametrize("hidden", [128, 100])
@pytest.mark.parametrize("alike", [True, False], ids=["alike", "mixed"])
def test_every_kind_of_tile(tile: RowsTile, hidden: int, alike: bool):
    for tokens, slots in ((5, 2), (1, 2)):
        x, a = random(tokens, 4, hidden, HALF)
        assert_projects(x, a, choices(tokens, slots, alike), tile)


@pytest.mark.parametrize(
    ("tokens", "dtype"),
    [(3, torch.float32), (3, HALF), (33, HALF), (129, HALF), (MOST_ROWS + 44, HALF)],
    ids=str,
)
@pytest.mark.parametrize(("slots", "columns"), [(1, 8), (2, 4)])
def test_what_is_chosen_for_every_number_of_tokens(
    tokens: int, slots: int, columns: int, dtype: torch.dtype
):
    x, a = random(tokens, columns, 72, dtype)
    for alike in (True, False):
        z = assert_projects(x, a, choices(tokens, slots, alike))
        assert z[:, 0].isnan().all(), "an A that nobody chose was read, or written to"
        assert multiplies_all(tokens, slots, a) == (tokens * slots > MOST_ROWS)
    assert TritonBackend().project(x, a, choices(tokens, slots, True)).dtype == dtype


def test_too_many_columns_are_not_all_multiplied():
    a = torch.empty(65, 16, 32, device=DEVICE)
    assert not multiplies_all(MOST_ROWS + 1, 1, a)
    assert multiplies_all(MOST_ROWS + 1, 1, a[:64])


def test_every_tile_stays_in_registers():
    for tokens, slots, columns, itemsize in itertools.product(
        (1, 2, 3, 16, 33, 64, 129, 4096), (1, 3, 8), (4, 16, 64, 300), (2, 4)
    ):
        dtype = HALF if itemsize == 2 else torch.float32
        tile = rows_tile(tokens, slots, columns, 576, dtype)
        if not tile.shares:
            assert tile.block_t * tile.block_w * tile.block_d <= 128 * 32 * tile.warps
        assert itemsize == 2 or not tile.shares, "the matrix unit would round fp32"


@pytest.mark.parametrize(("slots", "columns"), [(1, 16), (3, 48), (5, 128), (8, 16)])
@pytest.mark.parametrize("hidden", [576, 4096])
def test_some_numbers_of_tokens_need_every_kernel(hidden: int, slots: int, columns: int):
    a = torch.empty(3, columns, hidden, dtype=HALF, device="meta")

    def tile(tokens: int) -> RowsTile | None:
        whole = module.multiplies_all(tokens, slots, a)
        return None if whole else rows_tile(tokens, slots, columns, hidden, HALF)

    some = tokens_by_tile(3000, slots, a)
    assert len({tile(tokens) for tokens in some}) == len(some)
    assert {tile(tokens) for tokens in some} == {tile(tokens) for tokens in range(1, 3001)}
