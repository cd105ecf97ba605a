from __future__ import annotations

import logging
import subprocess
import sys
import types
from typing import Any

import pytest
import torch
from tests.attention.problems import Case, make

from lragent.attention import (
    UnsupportedError,
    choose,
    flash_lora_attention,
    project_lr,
    registry,
)
from lragent.attention.cpu import TorchBackend

CUDA = torch.device("cuda")


@pytest.fixture(autouse=True)
def _forget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_told", set())
    monkeypatch.setattr(registry, "_cannot_load", {})
    monkeypatch.setattr(registry, "_loaded", {})


class Refusing(TorchBackend):
    """Refuses to project."""

    def project(self, x: torch.Tensor, a: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        raise UnsupportedError("rank 300")


def fake_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = types.ModuleType("lragent.attention.gpu")
    module.TritonBackend = Refusing
    monkeypatch.setitem(sys.modules, "lragent.attention.gpu", module)


def test_cpu_means_torch() -> None:
    assert choose(torch.device("cpu")) == "torch"


def test_cuda_means_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_triton(monkeypatch)
    assert choose(CUDA) == "triton"


def test_missing_triton_falls_back_and_says_so_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "lragent.attention.gpu", None)
    with caplog.at_level(logging.WARNING):
        assert [choose(CUDA), choose(CUDA)] == ["torch", "torch"]
    assert len(caplog.records) == 1
    assert "triton cannot be imported" in caplog.text


def test_missing_triton_chosen_by_name_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lragent.attention.gpu", None)
    x, a, index = torch.ones(1, 4), torch.ones(1, 2, 4), torch.zeros(1, 1, dtype=torch.int32)
    with pytest.raises(ImportError):
        project_lr(x, a, index, implementation="triton")


def test_refusal_falls_back_once_told_and_raises_by_name(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fake_triton(monkeypatch)
    monkeypatch.setattr(registry, "choose", lambda _: "triton")
    x, a, index = torch.ones(1, 4), torch.ones(1, 2, 4), torch.zeros(1, 1, dtype=torch.int32)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert project_lr(x, a, index).tolist() == [[[4.0, 4.0]]]
    assert [record.getMessage() for record in caplog.records] == [
        "project_lr uses torch, as triton refuses: rank 300"
    ]
    with pytest.raises(UnsupportedError, match="rank 300"):
        project_lr(x, a, index, implementation="triton")


def test_unknown_implementation_names_the_known_ones() -> None:
    problem = make(Case())
    with pytest.raises(ValueError, match="known: auto, reference, torch, triton"):
        flash_lora_attention(
            problem.q,
            problem.pages,
            problem.batch,
            problem.tables,
            scale=1.0,
            implementation="cuda",  # pyright: ignore[reportArgumentType]
        )


def test_importing_the_package_needs_no_triton() -> None:
    code = "import sys, lragent.attention; print('lragent.attention.gpu' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "False", result.stderr
