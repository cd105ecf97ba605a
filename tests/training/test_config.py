"""Settings: what is refused, and the command line that is written to the model card."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from lragent.training import Mode, TrainConfig


def config(**settings: Any) -> TrainConfig:
    given = {"data": ["a.jsonl"], "model": "some/model", "out": "out"} | settings
    return TrainConfig.model_validate(given)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"roles": ("plan", "plan")}, "named twice"),
        ({"roles": ("../plan",)}, "pattern"),
        ({"role_learning_rates": {"plam": 1e-4}}, "no role"),
        ({"role_learning_rates": {"plan": 0}}, "above 0"),
        ({"targets": ("q_proj",)}, "add v_proj"),
        ({"readers": "random", "mode": "joint"}, "only when training for base\\+lr"),
        ({"readers": "random", "trained_for": "base+lr"}, "in mode joint"),
        ({"trained_for": "full"}, "'neutral', 'base\\+lr' or 'isolated'"),
        ({"rank": 0}, "greater than or equal to 1"),
        ({"data": []}, "at least 1"),
        ({"epoch": 3}, "not permitted"),
        ({"save_dtype": "int8"}, "float32"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        config(**settings)


def test_q_proj_alone_is_fine_without_sharing() -> None:
    assert config(targets=("q_proj",), mode=Mode.SEPARATE).shared_projections == ()


def test_rates_and_group_have_defaults() -> None:
    settings = config(role_learning_rates={"act": 1e-3}, learning_rate=2e-4, out=Path("x/team"))

    assert (settings.rate("plan"), settings.rate("act")) == (2e-4, 1e-3)
    assert settings.group_name == "team"


def test_command_names_what_differs_from_the_defaults() -> None:
    settings = config(
        data=["a b.jsonl", "c.jsonl"],
        roles=("plan", "act"),
        rank=16,
        learning_rate=1e-3,
        role_learning_rates={"act": 2e-3},
        gradient_checkpointing=True,
        mode="joint",
        trained_for="base+lr",
        readers="random",
    )

    assert settings.command() == (
        "lragent train --data 'a b.jsonl' --data c.jsonl --model some/model --out out "
        "--for base+lr --readers random --mode joint --roles plan,act --rank 16 "
        "--learning-rate 0.001 --role-learning-rate act=0.002 --gradient-checkpointing"
    )


def test_command_is_one_line_without_folders_of_this_machine(tmp_path: Path) -> None:
    text = 'don\'t\n\t"stöp"\\'
    settings = config(data=[tmp_path / "a.jsonl"], out=tmp_path / "team", acting_text=text)

    command = settings.command()

    assert command.startswith(
        "lragent train --data a.jsonl --model some/model --out team --acting-text $'don\\'t\\n"
    )
    assert "\n" not in command
    words = subprocess.run(
        ["bash", "-c", f'printf "%s" {command.partition("--acting-text ")[2]}'],
        capture_output=True, check=True, text=True,
    )  # fmt: skip
    assert words.stdout == text
