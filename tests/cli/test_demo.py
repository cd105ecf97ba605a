from __future__ import annotations

import functools
import json
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from lragent.agents import EventKind, Turn, WorkflowOptions
from lragent.cli.main import app
from lragent.cli.steps import StepPrinter
from lragent.training import write_sidecar

runner = CliRunner(env={"COLUMNS": "140"})


@pytest.fixture(autouse=True)
def short_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """A random model never ends a turn by itself."""
    lengths = dict.fromkeys(Turn, 12)
    short = functools.partial(WorkflowOptions, max_tokens=lengths)
    monkeypatch.setattr("lragent.agents.options.WorkflowOptions", short)


@pytest.fixture
def command(tiny_model: Path, adapters_dir: Path, tmp_path: Path) -> list[str]:
    options = ["--model", str(tiny_model), "--adapters-dir", str(adapters_dir)]
    options += ["--context", "64", "--html", str(tmp_path / "demo.html")]
    return ["demo", "--questions", "2", "--max-steps", "2", "--kv-mib", "8", *options]


@pytest.fixture
def for_neutral(command: list[str], adapters_dir: Path, tmp_path: Path) -> list[str]:
    """The command with adapters that say that they were trained for `neutral`."""
    trained = tmp_path / "trained"
    shutil.copytree(adapters_dir, trained)
    for folder in trained.iterdir():
        write_sidecar(folder, "agents", folder.name, "neutral")
    return [*command, "--adapters-dir", str(trained)]


def test_json(for_neutral: list[str]) -> None:
    every = [f"--policy={policy}" for policy in ("neutral", "isolated", "full", "base", "base+lr")]
    result = runner.invoke(app, [*for_neutral, *every, "--json"])
    assert result.exit_code == 0, result.stderr
    data = json.loads(result.stdout)
    assert len(data["questions"]) == 2
    policies = {policy["policy"]: policy for policy in data["policies"]}
    assert list(policies) == ["neutral", "isolated", "full", "base", "base+lr"]
    same_work = {
        (policy["prompt_tokens"], policy["generated_tokens"]) for policy in policies.values()
    }
    assert len(same_work) == 1
    for policy in policies.values():
        assert policy["computed_tokens"] + policy["reused_tokens"] == policy["prompt_tokens"]
        assert policy["ttft_s"] > 0
        assert policy["tokens_per_s"] > 0
        assert policy["kv_peak_bytes"] >= policy["kv_base_bytes"] + policy["kv_lr_bytes"]
        assert [answer["gold"] for answer in policy["answers"]] == [
            question["answer"] for question in data["questions"]
        ]
    neutral, isolated, full, base, shared = policies.values()
    assert data["shown_policy"] == "neutral"
    assert neutral["tokens_chosen_otherwise"] == 0
    assert isolated["computed_tokens"] == base["computed_tokens"] > shared["computed_tokens"]
    assert isolated["computed_tokens"] > neutral["computed_tokens"]
    assert neutral["kv_lr_bytes"] > 0
    assert full["computed_tokens"] == shared["computed_tokens"]
    assert isolated["kv_base_bytes"] > base["kv_base_bytes"] == shared["kv_base_bytes"]
    assert (full["kv_lr_bytes"], base["kv_lr_bytes"]) == (0, 3 * shared["kv_lr_bytes"])


@pytest.mark.parametrize("words", ["command", "for_neutral"])
def test_hand_overs(words: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    command = request.getfixturevalue(words)
    result = runner.invoke(app, [*command, "--questions", "1", "--json"])
    assert result.exit_code == 0, result.stderr
    turns = json.loads(result.stdout)["hand_overs"]
    assert [turn["agent"] for turn in turns] == ["plan", "act", "reflect"] * 2
    assert all(turn["shared"]["cached_tokens"] >= 64 for turn in turns[1:])
    assert [turn["alone"]["cached_tokens"] >= 64 for turn in turns] == [False] * 3 + [True] * 3
    assert turns[1]["writers"][:4] == ["plan"] * 4
    assert set(turns[3]["writers"]) == {"plan", "act", "reflect"}
    page = (tmp_path / "demo.html").read_text()
    assert page.count("<svg") == 3
    assert not re.search('(src|href)="http', page), "opens without a network"


def test_steps_and_tables(command: list[str], tmp_path: Path) -> None:
    result = runner.invoke(app, command)
    assert result.exit_code == 0, result.stderr
    for part in (
        "Agents take turns on a document of 64 tokens",
        "Waiting for first tokens",
        "1 plan    thought",
        "1 act     argument",
        "Answers",
        "The same run under each policy",
        "sum of times to first token (s)",
        "The agents answered 0 of 2 multi-hop questions right under base+lr",
    ):
        assert part in result.stdout
    assert str(tmp_path / "demo.html") in result.stdout
    assert "These adapters were not all trained for neutral" in result.stdout


def test_neutral_comes_first(
    for_neutral: list[str], caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    result = runner.invoke(app, for_neutral)
    assert result.exit_code == 0, result.stderr
    for part in (
        "on one shared under neutral",
        "These adapters were trained for neutral",
        "right under neutral",
    ):
        assert part in result.stdout
    head = next(line for line in result.stdout.splitlines() if "right answer" in line)
    assert head.index("neutral") < head.index("isolated")
    assert "These adapters were trained for neutral" in (tmp_path / "demo.html").read_text()
    assert caplog.messages == []  # other policies are compared on purpose


def test_interrupt_shows_what_there_is(command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    show = StepPrinter.__call__
    questions = []

    def interrupt_in_the_second(self: StepPrinter, event: Any) -> None:
        if event.kind is EventKind.ENDED:
            questions.append(event.result.question)
        if len(questions) == 1 and event.kind is EventKind.TEXT:
            signal.raise_signal(signal.SIGINT)
        show(self, event)

    monkeypatch.setattr(StepPrinter, "__call__", interrupt_in_the_second)
    result = runner.invoke(app, [*command, "--json"])
    assert result.exit_code == 130
    data = json.loads(result.stdout)
    assert len(data["questions"]) == 1
    assert data["policies"] == []


def test_adapters_dir_needs_all_roles(command: list[str], tmp_path: Path) -> None:
    (tmp_path / "plan").mkdir()
    result = runner.invoke(app, ["demo", "--adapters-dir", str(tmp_path)])
    assert result.exit_code == 2
    assert "holds no folder act, reflect" in result.stderr


def test_missing_bundled_adapters(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("lragent.agents.demo.files", lambda package: tmp_path)
    result = runner.invoke(app, ["demo"])
    assert result.exit_code == 1
    assert f"{tmp_path / 'adapters' / 'plan'}" in result.stderr
    assert "reinstall lragent" in result.stderr
