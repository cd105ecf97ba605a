"""Attention as one operator of a compiled graph, which finds its step by name."""

from __future__ import annotations

import gc

import pytest
import torch
from tests.attention.problems import Case, make

from lragent.attention import AttentionBatch, flash_lora_attention, project_lr, write_pages
from lragent.attention.compiled import CompiledAttention, Step, _layers

CASE = Case(lens=((1, 37), (5, 20)), adapters=(0, 1), kv_heads=2)


def steps(batch: AttentionBatch) -> list[Step]:
    """Two steps over one batch's pages, whose tokens lie in other places."""
    tokens = batch.num_queries
    found = []
    for first in (0, tokens):
        found.append(
            Step(
                batch,
                torch.arange(first, first + tokens),
                torch.ones(tokens, dtype=torch.bool),
                torch.arange(tokens, dtype=torch.int32)[:, None] % 3,
                torch.zeros(tokens, 1, dtype=torch.int32),
            )
        )
    return found


def test_one_graph_serves_every_step():
    problem, twin = make(CASE), make(CASE)
    a = torch.randn(3, CASE.v_rank, 16)
    layer = CompiledAttention(problem.pages, problem.tables, a, scale=problem.scale)
    graphs: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, _: list[torch.Tensor]):
        graphs.append(graph)
        return graph.forward

    def model(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, x: torch.Tensor):
        return layer(q * 1.0, k, v, x) + 1.0

    compiled = torch.compile(model, fullgraph=True, backend=backend)
    k, v, x = torch.randn(6, 2, 64), torch.randn(6, 2, 64), torch.randn(6, 16)
    for step in steps(problem.batch):
        layer.step = step
        lr = project_lr(x, a, step.lr_rows)
        write_pages(
            k, v, lr, twin.pages, step.slot_mapping, step.write_base, step.lr_rows, step.lr_slots
        )
        expected = flash_lora_attention(
            twin.q, twin.pages, twin.batch, twin.tables, scale=twin.scale
        )
        assert torch.equal(compiled(problem.q, k, v, x), expected + 1.0)
        for name in ("k", "v", "lr"):
            ours, theirs = getattr(problem.pages, name), getattr(twin.pages, name)
            assert torch.equal(ours.nan_to_num(9.0), theirs.nan_to_num(9.0)), name
    assert len(graphs) == 1
    assert graphs[0].code.count("lragent.attend") == 1


def test_the_operator_keeps_its_contract():
    problem = make(CASE)
    layer = CompiledAttention(problem.pages, problem.tables, None, scale=problem.scale)
    layer.step = steps(problem.batch)[0]
    k, x = torch.randn(6, 2, 64), torch.randn(6, 16)
    checks = ("test_schema", "test_faketensor")
    arguments = (problem.q, k, k, x, layer.name)
    torch.library.opcheck(torch.ops.lragent.attend.default, arguments, test_utils=checks)


def test_a_step_has_to_be_set():
    problem = make(CASE)
    layer = CompiledAttention(problem.pages, problem.tables, None, scale=problem.scale)
    with pytest.raises(RuntimeError, match=r"set CompiledAttention\.step"):
        layer(problem.q, problem.q[:, :2], problem.q[:, :2], problem.q[:, 0])


def test_layers_are_not_kept_alive():
    problem = make(CASE)
    name = CompiledAttention(problem.pages, problem.tables, None, scale=1.0).name
    gc.collect()
    assert name not in _layers
