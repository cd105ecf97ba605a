"""Adapters trained on `smollm2` are served on it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from lragent import smollm2
from lragent.engine import Engine, SamplingParams
from lragent.training import TrainConfig, train


def test_the_engine_loads_what_was_trained_on_smollm2(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    tiny_model: Path,
    make_config: Callable[..., TrainConfig],
) -> None:
    monkeypatch.setenv("LRAGENT_CACHE", str(tmp_path / "cache"))
    shutil.copytree(tiny_model, smollm2.converted_folder())
    report = train(make_config(model="smollm2", max_steps=2), show_progress=False)

    folders = {role.result.role: Path(report.out) / role.result.role for role in report.roles}
    for name in ("smollm2", str(smollm2.converted_folder())):
        with Engine(name, folders, "base+lr", device="cpu") as engine:
            answer = engine.generate(
                [5, 6, 7], adapter="plan", sampling_params=SamplingParams(max_tokens=2)
            )
            assert answer.finish_reason in ("length", "stop")
