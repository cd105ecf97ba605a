from __future__ import annotations

import json
from pathlib import Path

from tests.agents.trajectories import hotpot
from typer.testing import CliRunner

from lragent.cli.main import app

runner = CliRunner()


def test_samples_and_report(tmp_path: Path) -> None:
    out = tmp_path / "samples.jsonl"
    command = ["train-data", "--data", str(hotpot.write(tmp_path, hotpot.ALL)), "--out", str(out)]

    shown = runner.invoke(app, command)
    report = json.loads(runner.invoke(app, [*command, "--json"]).stdout)

    assert shown.exit_code == 0
    assert "plan:" in shown.stdout
    roles = [json.loads(line)["role"] for line in out.read_text().splitlines()]
    assert report["samples"] == {role: roles.count(role) for role in ("plan", "act", "reflect")}
    assert report["out"] == str(out)


def test_missing_data_and_unwritable_file(tmp_path: Path) -> None:
    none = runner.invoke(app, ["train-data", "--data", str(tmp_path), "--out", str(tmp_path / "s")])
    assert none.exit_code == 1
    assert none.stderr.count("\n") == 1
    assert "hotpotqa_train.jsonl.gz is missing" in none.stderr

    data = hotpot.write(tmp_path, hotpot.ALL)
    (tmp_path / "file").touch()
    out = tmp_path / "file" / "samples.jsonl"
    blocked = runner.invoke(app, ["train-data", "--data", str(data), "--out", str(out)])
    assert blocked.exit_code == 1
    assert str(tmp_path / "file") in blocked.stderr


def test_options_out_of_range_are_usage_errors(tmp_path: Path) -> None:
    command = ["train-data", "--data", str(tmp_path), "--out", "s", "--wrong-share", "2"]
    assert runner.invoke(app, command).exit_code == 2
