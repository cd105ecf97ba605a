"""A batch of all adapters at once: each sequence holds its own adapter's constant and no other.

V_base is 0, slot `m` of a page holds `2 ** m` and adapter `i` turns that into `10 ** i` times as
much, so whatever a sequence read of another adapter, slot, page or tail shows in its output.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.attention.problems import Case, device_of, make, run

from lragent.attention import Implementation, LoraTables

LENS = ((1, 37), (5, 20), (16, 16), (1, 3), (2, 64), (1, 65), (3, 3))


@pytest.mark.parametrize("implementation", ["reference", "torch", "triton"])
@pytest.mark.parametrize("window", [None, 9])
def test_mixed_batch(implementation: Implementation, window: int | None):
    case = Case(lens=LENS, adapters=(0, 1, 2, -1, 2, 0), slots=3, v_rank=8, window=window)
    problem = make(case, device=device_of(implementation))
    pages, batch = problem.pages, problem.batch
    assert pages.lr is not None
    pages.v[~pages.v.isnan()] = 0
    for sequence, slot in enumerate(batch.host_lr_slot):
        for page in batch.host_block_tables[sequence]:
            for other in range(case.slots):
                written = ~pages.k[page, 0, :, 0].isnan()
                pages.lr[page, written, other] = 2.0**other / case.v_rank
        assert (slot < 0) == (case.adapter(sequence) < 0)
    width = case.kv_heads * case.head_dim
    tables = LoraTables(
        torch.stack(
            [torch.full((case.v_rank, width), 10.0**i, device=problem.q.device) for i in range(3)]
        )
    )
    out = run(replace(problem, tables=tables), implementation)
    parts = out.split([new for new, _ in LENS])
    for sequence, part in enumerate(parts):
        adapter, slot = case.adapter(sequence), batch.host_lr_slot[sequence]
        allowed = 0.0 if adapter < 0 else 10.0**adapter * 2.0**slot
        torch.testing.assert_close(part, torch.full_like(part, allowed), rtol=1e-5, atol=1e-6)
