from __future__ import annotations

import subprocess
import sys
import traceback

import pytest
from typer.testing import CliRunner

import lragent
from lragent.cli.main import app

runner = CliRunner()


def test_version() -> None:
    result = runner.invoke(app, ["--version"])
    assert result.exit_code == 0
    assert result.stdout == f"lragent {lragent.__version__}\n"


def test_commands_and_their_json_option() -> None:
    shown = runner.invoke(app, ["--help"]).stdout
    for command in ("demo", "run", "chat", "check", "serve", "train", "inspect", "bench"):
        assert f" {command} " in shown
        options = runner.invoke(app, [command, "--help"], env={"COLUMNS": "200"}).stdout
        assert "--json" in options


def test_help_waits_for_no_heavy_library() -> None:
    code = (
        "import sys; from typer.testing import CliRunner; from lragent.cli.main import app\n"
        "assert CliRunner().invoke(app, ['run', '--help']).exit_code == 0\n"
        "print([m for m in ('torch', 'transformers', 'peft', 'openai') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "[]\n"


def test_unknown_command_is_a_usage_error() -> None:
    result = runner.invoke(app, ["dmeo"])
    assert result.exit_code == 2
    assert "dmeo" in result.stderr


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object, **options: object) -> None:
        raise KeyError("no such thing")

    monkeypatch.setattr("lragent.agents.trajectories.build_samples", broken)
    result = runner.invoke(app, ["train-data", "--data", "x", "--out", "y"])
    assert isinstance(result.exception, KeyError)
    frames = traceback.extract_tb(result.exception.__traceback__)
    assert frames[-1].name == "broken"


def test_interrupt_ends_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("lragent.agents.trajectories.build_samples", interrupted)
    result = runner.invoke(app, ["train-data", "--data", "x", "--out", "y"])
    assert result.exit_code == 130
    assert result.stderr == "Interrupted.\n"
