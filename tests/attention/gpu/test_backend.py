"""The public functions on the kernels: what they refuse, and that they reach them."""

from __future__ import annotations

import pytest
import torch
from tests.attention.gpu.problems import DEVICE, Problem, make

from lragent.attention import UnsupportedError, flash_lora_attention, project_lr, write_pages
from lragent.attention.gpu import launch


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


def test_refuses_what_it_cannot_do(monkeypatch: pytest.MonkeyPatch):
    problem = make([1], [5], head_dim=64)
    odd = make([1], [5], head_dim=64, dtype=torch.float64)
    with pytest.raises(UnsupportedError, match="float64"):
        attend(odd)
    wide = make([1], [5], v_rank=300, adapters=[0])
    with pytest.raises(UnsupportedError, match="rank 300: at most 256"):
        attend(wide)
    monkeypatch.setattr("lragent.attention.gpu.backend.interpreting", lambda: False)
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
