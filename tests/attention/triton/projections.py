"""What every kernel of the LR projection has to give, for alike and mixed choices of A."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from tests.attention.triton.problems import DEVICE, assert_within

from lragent.attention.project import project_lr_reference, project_lr_torch
from lragent.attention.triton.launch_project import launch_project
from lragent.attention.triton.tiles_project import ProjectionTile


def assert_projects(
    tile: ProjectionTile,
    dtype: torch.dtype,
    columns: int,
    hidden: int,
    sizes: Iterable[tuple[int, int]],
) -> None:
    """Right, bitwise the same when repeated, and neither unchosen A nor rows behind x looked at.

    Args:
        tile: that the kernel is launched with.
        dtype: of x, A and the result.
        columns: of a slot.
        hidden: width of x and A.
        sizes: numbers of tokens and slots.
    """
    generator = torch.Generator().manual_seed(hidden)
    a = (torch.randn(5, columns, hidden, generator=generator) * hidden**-0.5).to(DEVICE, dtype)
    a[0] = float("nan")  # nobody chooses it
    for tokens, slots in sizes:
        wide = torch.randn(tokens, hidden + 8, generator=generator).to(DEVICE, dtype)
        x = wide[:, :hidden]
        alike = torch.randint(1, 5, (1, slots), generator=generator).expand(tokens, slots)
        mixed = torch.randint(0, 5, (tokens, slots), generator=generator)
        mixed[mixed == 0] = -1
        for choices in (alike, mixed):
            index = torch.ones(tokens + 3, slots, dtype=torch.int32, device=DEVICE)
            index[:tokens] = choices.to(DEVICE)
            found = []
            for _ in range(3):
                shape = (tokens + 3, slots, columns)
                out = torch.full(shape, float("nan"), dtype=dtype, device=DEVICE)
                launch_project(x, a, index, out, tile)
                assert out[tokens:].isnan().all()
                found.append(out[:tokens])
            assert torch.equal(found[0], found[1])
            assert torch.equal(found[0], found[2])
            index = index[:tokens]
            truth = project_lr_reference(x.double(), a.double().nan_to_num(), index)
            assert_within(found[0], truth, project_lr_torch(x, a.nan_to_num(), index))
            assert (found[0][index < 0] == 0).all()
