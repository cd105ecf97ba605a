"""The operators: fake versions, torch.compile without graph breaks, refusals."""

from __future__ import annotations

import pytest
import torch
from tests.attention.triton.problems import DEVICE, HALF, Problem, make

from lragent.attention import UnsupportedError, flash_lora_attention, project_lr, write_pages
from lragent.attention.triton import launch


def attend(problem: Problem) -> torch.Tensor:
    return flash_lora_attention(
        problem.q,
        problem.pages,
        problem.batch,
        problem.tables,
        scale=problem.scale,
        rotation=problem.rotation,
        implementation="triton",
    )


def test_project_operator_keeps_its_contract():
    x, a = torch.randn(3, 64, device=DEVICE), torch.randn(2, 8, 64, device=DEVICE)
    index = torch.zeros(3, 1, dtype=torch.int32, device=DEVICE)
    torch.library.opcheck(torch.ops.lragent.project_lr.default, (x, a, index))


def test_attention_operator_keeps_its_contract():
    problem = make([1, 3], [20, 9], k_rank=4, one_page=False)
    pages, batch, tables = problem.pages, problem.batch, problem.tables
    assert problem.rotation is not None
    args = (
        problem.q, torch.zeros_like(problem.q), batch.cu_seqlens_q, pages.k, pages.v, pages.lr,
        tables.v_b, tables.k_b, problem.rotation.cos, problem.rotation.sin, batch.block_tables,
        batch.seq_lens, batch.adapter_index, batch.lr_slot, problem.scale, 0, 20, False, 1, 99,
    )  # fmt: skip
    checks = ("test_schema", "test_faketensor", "test_aot_dispatch_static")
    torch.library.opcheck(torch.ops.lragent.attend.default, args, test_utils=checks)


@pytest.mark.parametrize("dtype", [torch.float32, HALF], ids=str)
def test_compiles_into_one_graph(dtype: torch.dtype):
    problem = make([1, 3], [20, 9], k_rank=4, dtype=dtype)
    graphs = []

    def backend(graph: torch.fx.GraphModule, _: list[torch.Tensor]):
        graphs.append(graph)
        return graph.forward

    from lragent.attention.triton import entry

    def layer(q: torch.Tensor, x: torch.Tensor, a: torch.Tensor, index: torch.Tensor):
        z = entry.project_lr(x, a, index)
        out = entry.flash_lora_attention(
            q * 1.0,
            problem.pages,
            problem.batch,
            problem.tables,
            scale=problem.scale,
            rotation=problem.rotation,
        )
        return out + z.sum()

    x, a = torch.randn(3, 64, device=DEVICE), torch.randn(2, 8, 64, device=DEVICE)
    index = torch.zeros(3, 1, dtype=torch.int32, device=DEVICE)
    compiled = torch.compile(layer, fullgraph=True, backend=backend)
    assert torch.equal(compiled(problem.q, x, a, index), layer(problem.q, x, a, index))
    assert len(graphs) == 1


def test_refuses_what_it_cannot_do(monkeypatch: pytest.MonkeyPatch):
    problem = make([1], [5], head_dim=64)
    odd = make([1], [5], head_dim=64, dtype=torch.float64)
    with pytest.raises(UnsupportedError, match="float64"):
        attend(odd)
    wide = make([1], [5], v_rank=300, adapters=[0])
    with pytest.raises(UnsupportedError, match="rank 300: at most 256"):
        attend(wide)
    monkeypatch.setattr("lragent.attention.triton.entry.interpreting", lambda: False)
    if DEVICE.type == "cpu":
        with pytest.raises(UnsupportedError, match="need a CUDA device"):
            attend(problem)


def test_interpreter_flag_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert launch.interpreting()
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    assert not launch.interpreting()


def test_dispatch_reaches_all_three():
    problem = make([1, 3], [20, 9])
    assert attend(problem).shape == problem.q.shape
    x, a = torch.randn(2, 64, device=DEVICE), torch.randn(1, 8, 64, device=DEVICE)
    index = torch.zeros(2, 1, dtype=torch.int32, device=DEVICE)
    z = project_lr(x, a, index, implementation="triton")
    k = torch.randn(2, 2, 64, device=DEVICE)
    places = torch.tensor([0, 1], device=DEVICE)
    base = torch.ones(2, dtype=torch.bool, device=DEVICE)
    write_pages(k, k, z, problem.pages, places, base, index, index, implementation="triton")
    assert torch.equal(problem.pages.k[0, :, 1], k[1])
    assert problem.pages.lr is not None
    assert torch.equal(problem.pages.lr[0, 0, 0], z[0, 0])
