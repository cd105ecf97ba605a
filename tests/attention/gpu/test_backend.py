"""The public functions on the kernels: what they refuse, and that they reach them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.attention.problems import DEVICE, Case, make, run

from lragent.attention import UnsupportedError, project_lr, write_pages
from lragent.attention.gpu import launch


def test_refuses_what_it_cannot_do(monkeypatch: pytest.MonkeyPatch):
    case = Case(lens=((1, 5),))
    with pytest.raises(UnsupportedError, match="float64"):
        run(make(replace(case, dtype=torch.float64), device=DEVICE), "triton")
    with pytest.raises(UnsupportedError, match="rank 300: at most 256"):
        run(make(replace(case, v_rank=300), device=DEVICE), "triton")
    monkeypatch.setattr("lragent.attention.gpu.backend.interpreting", lambda: False)
    if DEVICE.type == "cpu":
        with pytest.raises(UnsupportedError, match="need a CUDA device"):
            run(make(case), "triton")


def test_interpreter_flag_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert launch.interpreting()
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    assert not launch.interpreting()


def test_dispatch_reaches_all_three():
    problem = make(Case(lens=((1, 20), (3, 9))), device=DEVICE)
    assert run(problem, "triton").shape == problem.q.shape
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
