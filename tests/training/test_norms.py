"""Fused norms against those of transformers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.engine.models import tiny_model
from torch import Tensor, nn

from lragent.engine.families import FAMILIES
from lragent.training.determinism import deterministic
from lragent.training.norms import fuse_norms

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def passed(norm: nn.Module, x: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Output, and the input's gradient by the output's."""
    x = x.clone().requires_grad_()
    with deterministic():
        with torch.autocast(DEVICE, torch.bfloat16):
            y = norm(x)
        return y, torch.autograd.grad(y, x, gradient)[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_as_exact_as_the_norms_of_transformers(family: str, dtype: torch.dtype) -> None:
    model: Any = tiny_model(family)
    model.to(DEVICE, dtype)
    norms = [module for name, module in model.named_modules() if name.endswith("norm")]
    assert len(norms) > 2
    cases = []
    for norm in norms:
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        x, gradient = torch.randn(2, 40, 6, len(norm.weight), device=DEVICE, dtype=dtype)
        cases.append((norm, x, gradient, passed(norm, x, gradient)))
    fuse_norms(model)
    for norm, x, gradient, theirs in cases:
        assert "forward" in vars(norm)
        double = x.double().requires_grad_()
        weight = norm.weight.double()
        y = nn.functional.rms_norm(double, weight.shape, weight, norm.variance_epsilon)
        truth = (y.detach(), torch.autograd.grad(y, double, gradient.double())[0])
        for mine, other, exact in zip(passed(norm, x, gradient), theirs, truth, strict=True):
            assert mine.dtype == other.dtype == dtype
            floor = torch.finfo(torch.float32).eps * exact.norm()
            assert (mine - exact).norm() <= 1.1 * (other - exact).norm() + floor


def test_other_families_keep_their_norms() -> None:
    model: Any = tiny_model("llama")
    model.config.model_type = "another"
    fuse_norms(model)
    assert not any("forward" in vars(module) for module in model.modules())
