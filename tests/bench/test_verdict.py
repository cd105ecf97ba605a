"""`lragent bench` against servers that share, that do not, and that would gain nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.bench.fake_server import ADAPTERS, Behaviour, fake_server
from typer.testing import CliRunner

from lragent.cli.main import app

runner = CliRunner(env={"COLUMNS": "80"})
TEAM: dict[str, str] = dict.fromkeys(ADAPTERS, "team")


TWO = ("--adapter", "plan", "--adapter", "act")


def bench(behaviour: Behaviour, out: Path, *options: str) -> dict[str, Any]:
    amounts = ["--context", "300", "--rounds", "2", "--sessions", "2", "--turns", "2", "--json"]
    with fake_server(behaviour) as url:
        result = runner.invoke(
            app, ["bench", "--base-url", url, "--out", str(out), *amounts, *options]
        )
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


@pytest.mark.parametrize("tells", [True, False], ids=["told", "by-time"])
def test_a_server_that_shares(tmp_path: Path, tells: bool) -> None:
    data = bench(Behaviour(TEAM, tells=tells), tmp_path, *TWO)
    assert data["verdict"] == "shares"
    assert [(p["writer"], p["reader"]) for p in data["pairs"]] == [("plan", "act"), ("act", "plan")]
    for pair in data["pairs"]:
        assert 270 <= pair["prompt_tokens"] <= 330
        assert pair["hand_over_s"] < 0.5 * pair["cold_s"]
        assert (pair["hand_over_cached"] is not None) == tells
    assert "lragent eval" in (tmp_path / "report.html").read_text()
    assert json.loads((tmp_path / "result.json").read_text()) == data


@pytest.mark.parametrize("tells", [True, False], ids=["told", "by-time"])
def test_a_server_that_would_gain(tmp_path: Path, tells: bool) -> None:
    data = bench(Behaviour(tells=tells), tmp_path, *TWO)
    assert data["verdict"] == "would-gain"
    assert "share nothing" in data["sentence"]
    workflow, single = data["workflow"], data["single"]
    assert workflow["generated_tokens"] == single["generated_tokens"] == 2 * 2 * 32
    assert single["tokens_per_s"] > workflow["tokens_per_s"] > 0


def test_prompts_that_cost_nothing(tmp_path: Path) -> None:
    data = bench(Behaviour(token_s=0, call_s=0.05), tmp_path, *TWO)
    assert data["verdict"] == "no-gain"
    assert "--context" in (tmp_path / "report.html").read_text()


def test_a_server_without_a_prefix_cache(tmp_path: Path) -> None:
    data = bench(Behaviour(caches=False), tmp_path, "--sessions", "0", *TWO)
    assert data["verdict"] == "no-gain"
    assert data["workflow"] is None


def test_one_adapter_is_left_out(tmp_path: Path) -> None:
    """All that the server lists are measured when none is named."""
    data = bench(Behaviour({"plan": "team", "act": "team"}, token_s=0), tmp_path)
    assert data["verdict"] == "partly"
    assert len(data["pairs"]) == 6
    assert "plan to reflect" in data["sentence"]
    assert "plan to act" not in data["sentence"]


def test_tables_fit_a_terminal(tmp_path: Path) -> None:
    with fake_server(Behaviour(TEAM)) as url:
        options = ["--context", "100", "--rounds", "1", "--turns", "1", "--out", str(tmp_path)]
        chosen = ["--adapter", "plan", "--adapter", "act"]
        result = runner.invoke(app, ["bench", "--base-url", url, *options, *chosen])
    assert result.exit_code == 0, result.stderr
    for part in ("hand-over", "own again", "Workflow", "plan, act", "These adapters share"):
        assert part in result.stdout


def test_names_that_the_server_does_not_have(tmp_path: Path) -> None:
    with fake_server(Behaviour()) as url:
        unknown = runner.invoke(app, ["bench", "--base-url", url, "--adapter", "plam"])
        alone = runner.invoke(app, ["bench", "--base-url", url, "--adapter", "plan"])
    assert (unknown.exit_code, alone.exit_code) == (1, 2)
    assert "did you mean 'plan'?" in unknown.stderr
    assert "two adapters are needed" in alone.stderr
