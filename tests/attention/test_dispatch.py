from __future__ import annotations

import logging
import subprocess
import sys
import types
from collections.abc import Iterator

import pytest
import torch
from tests.attention.cases import Case, make

from lragent.attention import UnsupportedError, choose, dispatch, flash_lora_attention, project_lr

CUDA = torch.device("cuda")


@pytest.fixture(autouse=True)
def _forget(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(dispatch, "_told", set())
    monkeypatch.setattr(dispatch, "_cannot_load", {})
    dispatch._load.cache_clear()
    yield
    dispatch._load.cache_clear()


def fake_triton(monkeypatch: pytest.MonkeyPatch, **functions: object) -> None:
    module = types.ModuleType("lragent.attention.triton")
    vars(module).update(functions)
    monkeypatch.setitem(sys.modules, "lragent.attention.triton", module)


def test_cpu_means_torch() -> None:
    assert choose(torch.device("cpu")) == "torch"


def test_cuda_means_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_triton(monkeypatch)
    assert choose(CUDA) == "triton"


def test_missing_triton_falls_back_and_says_so_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "lragent.attention.triton", None)
    with caplog.at_level(logging.WARNING):
        assert [choose(CUDA), choose(CUDA)] == ["torch", "torch"]
    assert len(caplog.records) == 1
    assert "triton cannot be imported" in caplog.text


def test_missing_triton_chosen_by_name_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lragent.attention.triton", None)
    x, a, index = torch.ones(1, 4), torch.ones(1, 2, 4), torch.zeros(1, 1, dtype=torch.int32)
    with pytest.raises(ImportError):
        project_lr(x, a, index, implementation="triton")


def test_refusal_falls_back_once_told_and_raises_by_name(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise UnsupportedError("rank 300")

    fake_triton(monkeypatch, project_lr=refuse)
    monkeypatch.setattr(dispatch, "choose", lambda _: "triton")
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
    code = "import sys, lragent.attention; print('lragent.attention.triton' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "False", result.stderr
