"""Reordered weights compute what the plain ones do, and take their place."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest
import torch
from tests.adapters.factory import tiny_llama
from torch import nn

from lragent.engine import packed_linear
from lragent.engine.packed_linear import PackedLinear, can_pack, pack, pack_head


@pytest.mark.parametrize("rows", [1, 2, 9, 64, 300])
@pytest.mark.parametrize("bias", [False, True], ids=["", "bias"])
@torch.inference_mode()
def test_packed_is_as_exact_as_plain(rows: int, bias: bool) -> None:
    torch.manual_seed(rows)
    linear = nn.Linear(96, 160, bias=bias)
    x = torch.randn(1, rows, 96)
    exact = nn.functional.linear(
        x.double(), linear.weight.double(), None if linear.bias is None else linear.bias.double()
    )
    # Sums round in proportion to what is added up, which may cancel in the result; the order of
    # summation, and so the error, differs between the processors' kernels.
    added = nn.functional.linear(x.double().abs(), linear.weight.double().abs())
    floor = torch.finfo(torch.float32).eps * added.amax()
    plain = (linear(x).double() - exact).abs().amax()
    packed = PackedLinear(linear)
    error = (packed(x).double() - exact).abs().amax()
    assert error <= 2 * plain + floor


@torch.inference_mode()
def test_a_row_does_not_depend_on_the_number_of_rows_beyond_rounding() -> None:
    torch.manual_seed(0)
    packed = PackedLinear(nn.Linear(576, 192, bias=False))
    x = torch.randn(40, 576)
    alone = torch.cat([packed(row[None]) for row in x])
    torch.testing.assert_close(packed(x), alone, rtol=1e-5, atol=1e-6)


def test_what_cannot_be_packed_stays_itself() -> None:
    half = nn.Linear(8, 8, dtype=torch.bfloat16)
    assert not can_pack(half)
    assert pack(half) is half
    meta = nn.Linear(8, 8, device="meta")
    assert pack(meta) is meta


@pytest.mark.parametrize("faster", [False, True])
def test_weights_are_reordered_where_that_is_faster(
    faster: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed_linear, "plain_is_faster", lambda: faster)
    linear = nn.Linear(8, 8)
    assert isinstance(pack(linear), nn.Linear if faster else PackedLinear)


@pytest.mark.parametrize(
    ("text", "faster"),
    [("vendor_id\t: GenuineIntel\n", True), ("vendor_id\t: AuthenticAMD\n", False)],
)
def test_plain_weights_are_faster_on_intel(
    text: str, faster: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "read_text", lambda _: text)
    assert packed_linear.plain_is_faster.__wrapped__() == faster


def test_another_system_says_it_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(path: Path) -> str:
        raise FileNotFoundError(path)

    monkeypatch.setattr(Path, "read_text", missing)
    monkeypatch.setattr(platform, "processor", lambda: "Intel64 Family 6 Model 85, GenuineIntel")
    assert packed_linear.plain_is_faster.__wrapped__()
    monkeypatch.setattr(platform, "processor", lambda: "arm")
    assert not packed_linear.plain_is_faster.__wrapped__()


def test_the_weights_are_not_held_twice() -> None:
    packed = PackedLinear(nn.Linear(8, 8))
    assert list(packed.parameters()) == []


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@torch.inference_mode()
def test_the_head_gives_the_same_logits(tied: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_linear, "plain_is_faster", lambda: False)
    model = tiny_llama()
    if tied:
        model.lm_head.weight = model.model.embed_tokens.weight
    ids = torch.arange(12)[None]
    before = model(ids).logits
    pack_head(model)
    torch.testing.assert_close(model(ids).logits, before, rtol=1e-5, atol=1e-6)
    head = model.lm_head
    if tied:
        assert head.weight is model.model.embed_tokens.weight
    else:
        assert isinstance(head, PackedLinear)
