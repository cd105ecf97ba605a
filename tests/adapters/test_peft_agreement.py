"""An adapter computes what PEFT computes with the same folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from tests.adapters.factory import edit_config, make_adapter, tiny_llama

from lragent.adapters import read_adapter

ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({}, id="plain"),
        pytest.param({"targets": ALL}, id="all-linear"),
        pytest.param({"use_rslora": True}, id="rslora"),
        pytest.param({"alpha_pattern": {"layers.0.self_attn.v_proj": 32, "q_proj": 3}}, id="alpha"),
        pytest.param({"rank_pattern": {"v_proj": 2, r".*\.1\..*q_proj": 6}}, id="rank"),
        pytest.param(
            {"rank_pattern": {"^model.layers.0.self_attn.v_proj": 2}, "use_rslora": True},
            id="anchored-rslora",
        ),
        # PEFT takes the first pattern that matches, in the order of the file.
        pytest.param(
            {"rank_pattern": {r"layers\.1.*": 3, "v_proj": 5}, "alpha_pattern": {"v_proj": 7}},
            id="order",
        ),
        pytest.param({"layers_to_transform": [1]}, id="one-layer"),
        pytest.param(
            {"targets": ["v_proj"], "exclude_modules": ["layers.0.self_attn.v_proj"]}, id="exclude"
        ),
        pytest.param({"fan_in_fan_out": True}, id="fan-in-fan-out"),
    ],
)
def test_low_rank_term_equals_pefts(tmp_path: Path, settings: dict[str, Any]) -> None:
    settings = dict(settings)
    fan = settings.pop("fan_in_fan_out", False)
    path = make_adapter(tmp_path / "a", tiny_llama(), **settings)
    if fan:
        edit_config(path, fan_in_fan_out=True)
    adapter = read_adapter(path)
    base = tiny_llama()
    plain = dict(base.named_modules())
    wrapped = PeftModel.from_pretrained(base, str(path)).eval()
    layers: dict[str, Any] = {
        name.removeprefix("base_model.model."): module
        for name, module in wrapped.named_modules()
        if hasattr(module, "lora_A")
    }
    assert set(layers) == set(adapter.modules)
    generator = torch.Generator().manual_seed(5)
    for name, module in adapter.modules.items():
        x = torch.randn(3, module.a.shape[1], generator=generator)
        with torch.no_grad():
            whole = layers[name](x)
            term = module.scaling * (x @ module.a.T) @ module.b.T
            expected = plain[name](x) + term
        torch.testing.assert_close(whole, expected, rtol=1e-5, atol=1e-5)
        assert term.abs().max() > 1e-2, "a term that vanishes would agree with anything"
        assert layers[name].scaling["default"] == module.scaling
        assert layers[name].r["default"] == module.rank


def test_summary_fields(tmp_path: Path) -> None:
    path = make_adapter(tmp_path / "a", tiny_llama(), rank_pattern={"v_proj": 6}, targets=ALL)
    adapter = read_adapter(str(path))
    assert adapter.path == path
    assert adapter.base_model == "tiny/Llama-Test"
    assert adapter.rank == 6
    assert adapter.rank_of("v_proj") == 6
    assert adapter.rank_of("q_proj") == 4
    assert adapter.rank_of("c_attn") == 0
    assert adapter.cached_projections == ("k_proj", "v_proj")
    assert set(adapter.a_digests) == set(ALL)
    module = adapter.modules["model.layers.1.mlp.down_proj"]
    assert (module.layer, module.projection) == (1, "down_proj")
    assert (module.a.shape, module.b.shape) == ((4, 48), (32, 4))


def test_notes(tmp_path: Path) -> None:
    model = tiny_llama()
    notes = read_adapter(make_adapter(tmp_path / "all", model, targets=ALL)).notes
    assert any("down_proj, gate_proj, o_proj, up_proj has no cached term" in n for n in notes)
    assert any("LoRA on k_proj" in note for note in notes)
    assert read_adapter(make_adapter(tmp_path / "qv", model)).notes == ()
    q_only = make_adapter(tmp_path / "q", model, targets=["q_proj"])
    edit_config(
        q_only, base_model_name_or_path=None, fan_in_fan_out=True, init_lora_weights="lora_ga"
    )
    adapter = read_adapter(q_only)
    assert (adapter.base_model, adapter.slot_digest, adapter.cached_projections) == (None, None, ())
    for part in ("which base model", "no effect on linear", "LoRA-GA", "needs no LR slot"):
        assert any(part in note for note in adapter.notes)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_tensors_keep_the_stored_dtype(tmp_path: Path, dtype: torch.dtype) -> None:
    adapter = read_adapter(make_adapter(tmp_path / "a", tiny_llama(), dtype=dtype))
    assert {m.a.dtype for m in adapter.modules.values()} == {dtype}
