"""The examples, as a user runs them."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
from peft import PeftModel
from transformers import AutoModelForCausalLM

from lragent.adapters import read_adapter
from lragent.adapters.sidecar import read_sidecar
from lragent.training import TrainingError, write_sidecar
from lragent.training.served import ServedForward

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize("name", ["trainer", "sft_trainer"])
def test_example_trains_an_adapter_for_neutral(
    name: str, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "last"
    readers = []
    reading = ServedForward._reading

    def noted(self: ServedForward) -> Any:
        readers.append(self.reader)
        return reading(self)

    monkeypatch.setattr(ServedForward, "_reading", noted)
    monkeypatch.setattr(sys, "argv", [name, str(tiny_model), str(out)])
    monkeypatch.syspath_prepend(EXAMPLES)
    runpy.run_path(str(EXAMPLES / f"{name}.py"))

    assert readers == [None] * 40, "20 steps of two batches, each context read by the base model"
    adapter = read_adapter(out)
    sidecar = read_sidecar(out, adapter.a_digests)
    assert sidecar is not None
    assert sidecar.trained_for == "neutral"
    with pytest.raises(TrainingError, match="'full' is no policy to train for; there are neutral"):
        write_sidecar(out, "examples", "last", "full")
    with pytest.raises(TrainingError, match="has no LoRA on k_proj"):
        write_sidecar(out, "examples", "last", "neutral", ["k_proj"])
    assert all(module.b.abs().max() > 0 for module in adapter.modules.values())
    PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_model), str(out))
