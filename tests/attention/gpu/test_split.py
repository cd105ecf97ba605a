"""Requests that are two sequences of a batch, and one in its `whole`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tests.attention.problems import DEVICE, HALF, Case, Problem, assert_close, make, run

from lragent.attention import AttentionBatch
from lragent.attention.gpu import backend

REQUESTS = ((0, 1), (2,), (3, 4), (5,))  # the sequences of each; the last one's are in its context


def split(k_rank: int, longer: int = 0) -> Problem:
    """Two requests that are a context and a turn each, between others of an adapter and of none."""
    contexts = [100 + longer, 64 + longer]
    lens = ((60, contexts[0]), (1, contexts[0] + 1), (1, 40), (30, contexts[1]))
    lens += ((5, contexts[1] + 5), (20, 20))
    case = Case(lens=lens, adapters=(-1, 0, 1, -1, 1, -1), k_rank=k_rank, dtype=HALF)
    problem = make(case, device=DEVICE)
    tables = problem.batch.block_tables
    for context, turn in ((0, 1), (3, 4)):
        tables[context] = tables[turn]
        for dense in (problem.k, problem.v):
            dense[context] = dense[turn][: case.lens[context][1]]
    whole = AttentionBatch.build(
        [tables[sequences[-1]].tolist() for sequences in REQUESTS],
        [sum(case.lens[i][0] for i in sequences) for sequences in REQUESTS],
        [case.lens[sequences[-1]][1] for sequences in REQUESTS],
        device=DEVICE,
    )
    return replace(problem, batch=replace(problem.batch, whole=whole))


@pytest.mark.parametrize("k_rank", [0, 4])
def test_a_request_of_two_sequences(k_rank: int):
    problem = split(k_rank)
    assert_close(run(problem, "triton"), problem)


@pytest.mark.skipif(DEVICE.type == "cpu", reason="contexts are expanded on a GPU only")
def test_expanded_contexts_of_requests_of_two_sequences():
    problem = split(0, longer=6000)
    assert_close(run(problem, "triton"), problem)


def test_contexts_share_launches(monkeypatch: pytest.MonkeyPatch):
    planned: list[Any] = []

    def prepare(runs: Any, *rest: Any) -> Any:
        planned.extend((found.run.path, found.run.first, found.run.last) for found in runs)
        return original(runs, *rest)

    original = backend.prepare
    monkeypatch.setattr(backend, "prepare", prepare)
    run(split(0), "triton")
    assert planned == [("tiles", 0, 4), ("decode", 1, 3), ("tiles", 4, 5)]
