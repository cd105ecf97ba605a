"""The trainer under bfloat16's autocast, as on a GPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft.tuners.lora import LoraLayer
from tests.engine.models import tiny_model
from torch import Tensor

from lragent.training import TrainConfig, trainer
from lragent.training.encoding import Example
from lragent.training.lora import add_adapters, trainable_state

ARGUMENTS: Any = trainer.TrainingArguments
EXAMPLES = [Example("plan", list(range(3, 3 + length)), 4) for length in range(8, 16)]


def trained(
    config: TrainConfig, folder: Path, monkeypatch: pytest.MonkeyPatch, casts: bool
) -> dict[str, Tensor]:
    torch.manual_seed(0)
    base: Any = tiny_model()
    model = add_adapters(base.to(torch.bfloat16), ("plan",), config)
    monkeypatch.setattr(
        trainer, "TrainingArguments", lambda **given: ARGUMENTS(**given | {"bf16": True})
    )
    made = trainer.RoleTrainer(model, ("plan",), EXAMPLES, config, folder, [])
    layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
    assert len(layers) == 6
    for layer in layers:
        assert not layer.cast_input_dtype_enabled
        layer.cast_input_dtype_enabled = casts
    made.train()
    return trainable_state(model)


@pytest.mark.parametrize("purpose", ["isolated", "neutral"])
def test_inputs_of_adapters_need_no_cast_to_float32(
    make_config: Callable[..., TrainConfig],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    purpose: str,
) -> None:
    config = make_config(trained_for=purpose, roles=("plan",), max_steps=2, dropout=0.0)
    without, with_casts = (trained(config, tmp_path, monkeypatch, c) for c in (False, True))
    assert any(value.any() for name, value in without.items() if "lora_B" in name)
    assert all(torch.equal(value, with_casts[name]) for name, value in without.items())
