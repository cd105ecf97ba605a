"""The values path from plan to result, with FlashAttention 3 played by PyTorch."""

from __future__ import annotations

import math
import sys
from types import ModuleType
from typing import Any

import pytest
import torch
from tests.attention.triton.problems import DEVICE, HALF, assert_close, attend, make, sharing
from torch import Tensor

from lragent.attention.triton import (
    entry,
    fa3,
    flash_lora_attention,
    plan,
    relaunch,
    reserve_scratch,
    workspace,
)
from lragent.attention.triton.warm import warm_up

NAME = "vllm.vllm_flash_attn.flash_attn_interface"


def varlen(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    max_query: int,
    cu_seqlens_q: Tensor,
    max_seq: int,
    *,
    softmax_scale: float,
    window_size: list[int],
    out: Tensor,
    cu_seqlens_k: Tensor | None = None,
    seqused_k: Tensor | None = None,
    block_table: Tensor | None = None,
    causal: bool,
    scheduler_metadata: Tensor,
    fa_version: int,
) -> None:
    """FlashAttention 3 as it is inside vLLM, over contiguous keys or over pages."""
    assert causal
    assert fa_version == 3
    for s in range(cu_seqlens_q.shape[0] - 1):
        first, last = cu_seqlens_q[s : s + 2].tolist()
        if block_table is None:
            assert cu_seqlens_k is not None
            here = slice(*cu_seqlens_k[s : s + 2].tolist())
            keys, values = k[here], v[here]
        else:
            assert seqused_k is not None
            # Pages beyond the table's end would be read past the sequence's pages.
            assert block_table.shape[1] * k.shape[1] - max_seq < k.shape[1]
            assert scheduler_metadata.item() == k.shape[1]
            pages = block_table[s, : -(-int(seqused_k[s]) // k.shape[1])].long()
            # The last page is loaded whole, as with some page sizes.
            keys, values = (x[pages].flatten(0, 1) for x in (k, v))
        tokens = keys.shape[0] if seqused_k is None else int(seqused_k[s])
        group = q.shape[1] // k.shape[2 if block_table is not None else 1]
        keys, values = (x.repeat_interleave(group, 1) for x in (keys, values))
        scores = torch.einsum("qhd,khd->hqk", q[first:last], keys).float() * softmax_scale
        position = torch.arange(tokens - (last - first), tokens, device=q.device)[:, None]
        key = torch.arange(keys.shape[0], device=q.device)[None, :]
        seen = key <= position
        if window_size[0] >= 0:
            seen &= key >= position - window_size[0]
        weights = scores.masked_fill(~seen, -math.inf).softmax(-1).to(v.dtype)
        out[first:last] = torch.einsum("hqk,khd->qhd", weights, values)


def schedule(page_size: int | None = None, **_: Any) -> Tensor:
    """Stands for a work list: the page size that it was made for."""
    return torch.tensor(page_size or 0)


@pytest.fixture(autouse=True)
def _installed(monkeypatch: pytest.MonkeyPatch):
    module: Any = ModuleType(NAME)
    module.get_scheduler_metadata = schedule
    monkeypatch.setitem(sys.modules, NAME, module)
    monkeypatch.setattr(fa3, "find", lambda device: (NAME, varlen))
    monkeypatch.setattr(entry, "_expands", lambda dtype, device: True)
    # Small problems, for which the pages are read as they lie, take the other paths.
    monkeypatch.setattr(plan, "_LAUNCH", -1.0)


@pytest.mark.parametrize("window", [None, 30])
def test_prompts_share_pages_under_different_adapters(
    window: int | None, monkeypatch: pytest.MonkeyPatch
):
    # As if the contexts were too long to be expanded.
    monkeypatch.setattr(entry, "_dense_rate", lambda q: 0.0)
    problem = make(
        [1, 20, 33, 7], [40, 70, 70, 21], adapters=[0, 1, 0, -1], dtype=HALF, window=window
    )
    problem = sharing(problem, 1, 2)
    assert problem.pages.lr is not None
    arguments = (problem.pages, problem.batch, problem.tables)
    out = torch.full_like(problem.q, math.nan)
    attend(problem, out)
    runs = entry.plan_batch(problem.q, *arguments, window or 0)
    paths = [(planned.run.path, planned.run.first) for planned in runs]
    assert paths == [("decode", 0), ("values", 1), ("values", 2), ("values", 3)]
    assert_close(out, problem)

    def layer(q: Tensor) -> Tensor:
        return flash_lora_attention(
            q, *arguments, scale=problem.scale, sliding_window=problem.window
        )

    graphs: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, _: list[Tensor]):
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(layer, fullgraph=True, backend=backend)
    assert torch.equal(compiled(problem.q), out)
    assert [graph.code.count("lragent.attend_values") for graph in graphs] == [3]


def test_keys_with_adapters_are_expanded():
    problem = make([20, 30], [70, 40], k_rank=4, dtype=HALF)
    out = attend(problem)
    runs = entry.plan_batch(problem.q, problem.pages, problem.batch, problem.tables, 0)
    assert [planned.run.path for planned in runs] == ["expand"]
    assert_close(out, problem)


def test_unaligned_pages_and_other_packages_are_not_for_it(monkeypatch: pytest.MonkeyPatch):
    problem = make([20], [70], dtype=HALF)
    pages, tables = problem.pages, problem.tables
    assert entry.shape_of(problem.q, pages, tables, 0).paged_rate > 0
    odd = make([20], [70], head_dim=84, dtype=HALF)
    assert entry.shape_of(odd.q, odd.pages, odd.tables, 0).paged_rate == 0
    monkeypatch.setattr(fa3, "find", lambda device: ("flash_attn_interface", varlen))
    assert entry.shape_of(problem.q, pages, tables, 0).paged_rate == 0


def test_reserving_leaves_nothing_to_grow(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(workspace, "_buffers", {})
    monkeypatch.setattr(entry, "SCRATCH_BYTES", 1 << 16)
    monkeypatch.setattr(plan, "SCRATCH_BYTES", 1 << 16)
    problem = make([20], [70], dtype=HALF)
    # A short context, although the pages of the cache are many.
    reserve_scratch(16, 2, 64, HALF, DEVICE)
    before = workspace.held_bytes()
    assert before == 1 << 16
    attend(problem)
    assert workspace.held_bytes() == before


@pytest.mark.parametrize("pages", ["few", "many"])
def test_warming_up_compiles_both_paths(pages: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(relaunch, "_launches", {})
    problem = make([20], [70], dtype=HALF, adapters=[0], slots=1)
    down = torch.zeros(1, problem.tables.v_rank, 32, dtype=HALF, device=DEVICE)
    warm_up(
        problem.pages, problem.tables, down, heads=4, columns=1, scale=problem.scale,
        max_tokens=32, max_requests=2, max_context=128,
    )  # fmt: skip
    launches: dict[Any, Any] = relaunch._launches
    known = set(launches)
    assert {key[0].__name__ for key in known} >= {"expand_kernel", "values_kernel"}
    if pages == "many":
        monkeypatch.setattr(plan.Shape, "completes_values", False)
    attend(problem)
    assert set(launches) == known
