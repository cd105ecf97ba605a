"""`lragent train` from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.engine.test_loader import save_tiny_model
from typer.testing import CliRunner

from lragent.cli.main import app
from lragent.cli.train import curve

runner = CliRunner()


def samples(folder: Path) -> Path:
    path = folder / "samples.jsonl"
    lines = [
        {"role": role, "input": f"w1 w{number}", "output": "w3 w4"}
        for number in range(4)
        for role in ("plan", "act")
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_json_report(tmp_path: Path) -> None:
    save_tiny_model(tmp_path / "tiny")
    command = ["train", "--data", str(samples(tmp_path)), "--eval-data", str(samples(tmp_path))]
    command += ["--model", str(tmp_path / "tiny"), "--out", str(tmp_path / "out")]
    command += ["--roles", "plan,act", "--rank", "2", "--max-steps", "2", "--device", "cpu"]

    result = runner.invoke(app, [*command, "--role-learning-rate", "act=0.001", "--json"])

    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    plan, act = report["roles"]
    assert plan["a_digests"]["v_proj"] == act["a_digests"]["v_proj"]
    assert plan["steps"] == 2
    assert act["eval_loss"] > 0
    again = runner.invoke(app, [*command, "--role-learning-rate", "act=0.001"])
    assert again.exit_code == 0
    assert again.stdout.count("(kept)") == 2
    out = tmp_path / "out"
    assert f"--adapter plan={out / 'plan'} --adapter act={out / 'act'}" in again.stdout
    assert "sharing='neutral'" in again.stdout


def test_the_curve_of_losses() -> None:
    assert curve([]) == ""
    assert curve([2.0, 2.0]) == "▁▁"
    assert curve([9.0, 5.0, 2.0]) == "█▄▁"
    assert curve([float(i) for i in range(160, 0, -1)], width=4) == "█▆▃▁"


def test_an_interrupted_run_says_how_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("lragent.training.run.train", interrupted)
    command = ["train", "--data", str(samples(tmp_path)), "--model", "m", "--roles", "plan,act"]
    result = runner.invoke(app, [*command, "--out", str(tmp_path / "out")])
    assert result.exit_code == 130
    assert "The same command goes on" in result.stderr


def test_bad_settings_and_samples_end_with_a_message(tmp_path: Path) -> None:
    command = ["train", "--data", str(tmp_path / "none.jsonl")]
    command += ["--model", "m", "--out", str(tmp_path)]

    missing = runner.invoke(app, command)
    bad_rate = runner.invoke(app, [*command, "--role-learning-rate", "act"])
    bad_targets = runner.invoke(app, [*command, "--targets", "q_proj"])

    assert (missing.exit_code, bad_rate.exit_code, bad_targets.exit_code) == (1, 2, 2)
    # The message is wrapped to the width of the terminal, anywhere in a long path.
    assert "none.jsonlcannotberead" in "".join(missing.stderr.split())
    assert "ROLE=RATE" in bad_rate.stderr
    assert "add v_proj" in bad_targets.stderr
