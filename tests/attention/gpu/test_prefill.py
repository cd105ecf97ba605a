"""Prefill by expanded contexts, from plan to result, with FlashAttention 3 played by PyTorch."""

from __future__ import annotations

import sys
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest
import torch
from tests.attention.problems import (
    DEVICE,
    HALF,
    Case,
    Problem,
    assert_close,
    causal_attention,
    make,
    run,
)
from torch import Tensor

from lragent.attention import AttentionBatch
from lragent.attention.gpu import backend, fa3, plan, reserve_scratch, workspace
from lragent.attention.gpu.layer import Layer

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
    cu_seqlens_k: Tensor,
    causal: bool,
    scheduler_metadata: Tensor,
    fa_version: int,
) -> None:
    """FlashAttention 3 as it is inside vLLM, over contiguous keys."""
    assert causal
    assert fa_version == 3
    assert scheduler_metadata.tolist() == [max_query, max_seq]
    for s in range(cu_seqlens_q.shape[0] - 1):
        first, last = cu_seqlens_q[s : s + 2].tolist()
        here = slice(*cu_seqlens_k[s : s + 2].tolist())
        window = None if window_size[0] < 0 else window_size[0] + 1
        out[first:last] = causal_attention(q[first:last], k[here], v[here], softmax_scale, window)


def schedule(max_seqlen_q: int, max_seqlen_k: int, **_: Any) -> Tensor:
    """Stands for a work list: the sizes that it was made for."""
    return torch.tensor([max_seqlen_q, max_seqlen_k])


@pytest.fixture(autouse=True)
def _installed(monkeypatch: pytest.MonkeyPatch):
    module: Any = ModuleType(NAME)
    module.get_scheduler_metadata = schedule
    monkeypatch.setitem(sys.modules, NAME, module)
    monkeypatch.setattr(fa3, "find", lambda device: (NAME, varlen))
    monkeypatch.setattr(backend, "_expands", lambda dtype, device: True)
    # Small problems, which the tiles serve best, take another path.
    monkeypatch.setattr(plan, "_START_FEW", 1.0)


@pytest.mark.parametrize(("k_rank", "window"), [(0, None), (4, None), (0, 30)])
def test_prompts_are_expanded_beside_a_decoding_sequence(k_rank: int, window: int | None):
    case = Case(
        lens=((1, 40), (20, 70), (33, 70), (7, 21)), adapters=(0, 1, 0, -1), dtype=HALF,
        k_rank=k_rank, window=window,
    )  # fmt: skip
    problem = make(case, device=DEVICE)
    out = run(problem, "triton")
    assert runs_of(problem) == [("decode", 0, 1), ("expand", 1, 4)]
    assert_close(out, problem)


def runs_of(problem: Problem) -> list[tuple[str, int, int]]:
    layer = Layer.of(problem.pages, problem.tables, problem.rotation)
    planned = backend.plan_batch(problem.q, problem.batch, layer, problem.case.window or 0)
    return [(run.path, run.first, run.last) for run, *_ in planned]


def crossing(turn: int, k_rank: int = 0) -> Problem:
    """Requests of a context and a turn (sequences 0 and 1, then 3 and 4), and between and behind
    them one in its turn and one in its context."""
    lens = ((60, 100), (turn, 100 + turn), (1, 40), (30, 64), (1, 65), (20, 20))
    case = Case(lens=lens, adapters=(-1, 0, 1, -1, 1, -1), k_rank=k_rank, dtype=HALF)
    problem = make(case, device=DEVICE)
    tables = problem.batch.block_tables
    for context, after in ((0, 1), (3, 4)):
        tables[context] = tables[after]
        for dense in (problem.k, problem.v):
            dense[context] = dense[after][: lens[context][1]]
    whole = AttentionBatch.build(
        tables[[1, 2, 4, 5]].tolist(), [60 + turn, 1, 31, 20], [100 + turn, 40, 65, 20],
        device=DEVICE,
    )  # fmt: skip
    return replace(problem, batch=replace(problem.batch, whole=whole))


@pytest.mark.parametrize("k_rank", [0, 4])
def test_contexts_between_turns_are_expanded_together(k_rank: int):
    problem = crossing(1, k_rank)
    out = run(problem, "triton")
    # First three of the four requests, then the turns.
    assert runs_of(problem) == [("expand", 0, 1), ("expand", 2, 4), ("decode", 1, 5)]
    assert_close(out, problem)


def test_contexts_without_new_tokens_are_no_part_of_a_plan():
    problem = crossing(1)
    batch, whole = problem.batch, problem.batch.whole
    assert whole is not None
    longer = replace(
        batch, whole=whole, host_cu_seqlens_q=[*batch.host_cu_seqlens_q, 113],
        host_seq_lens=[*batch.host_seq_lens, 40], host_lr_slot=[*batch.host_lr_slot, -1],
    )  # fmt: skip
    assert longer.host_cu_seqlens_q[-2] == 113
    assert runs_of(replace(problem, batch=longer)) == runs_of(problem)


def test_contexts_before_a_long_turn_are_computed_without_it(monkeypatch: pytest.MonkeyPatch):
    # Its attention twice would take longer than the launch that it saves.
    monkeypatch.setattr(backend, "FA3_RATE", 1e10)
    problem = crossing(10)
    out = run(problem, "triton")
    # The context and its long turn are neighbours, and share a launch.
    paths = [("expand", 0, 2), ("decode", 2, 5), ("expand", 3, 4), ("expand", 5, 6)]
    assert runs_of(problem) == paths
    assert_close(out, problem)


@pytest.mark.parametrize("dense", [True, False], ids=["tiles are faster", "no dense kernel"])
def test_contexts_that_are_not_expanded_stay_between_their_turns(
    dense: bool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(plan, "_START_FEW", 0.0)
    monkeypatch.setattr(backend, "_expands", lambda dtype, device: dense)
    problem = crossing(5)
    out = run(problem, "triton")
    assert runs_of(problem) == [("tiles", 0, 6), ("decode", 2, 5)]
    assert_close(out, problem)


def test_reserving_leaves_nothing_to_grow(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(workspace, "_buffers", {})
    problem = make(Case(lens=((20, 70),), dtype=HALF), device=DEVICE)
    reserve_scratch(70, 2, 64, HALF, DEVICE)
    before = workspace.held_bytes()
    assert before >= 2 * 70 * 2 * 64 * 2
    run(problem, "triton")
    assert workspace.held_bytes() == before


def test_no_more_is_reserved_than_is_ever_used(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(workspace, "_buffers", {})
    monkeypatch.setattr(backend, "SCRATCH_BYTES", 1 << 16)
    reserve_scratch(1 << 20, 2, 64, HALF, DEVICE)
    assert workspace.held_bytes() == 1 << 16
