from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.agents.scripted import Reply, ScriptedBackend, step
from typer.testing import CliRunner

from lragent.agents import RunTrace
from lragent.cli import backends
from lragent.cli.backends import Served
from lragent.cli.main import app

runner = CliRunner(env={"COLUMNS": "120"})
RIGHT = [
    *step("I need Oland Bridge.", "Retrieve", "Oland Bridge"),
    *step("It was opened in 1873.", "Finish", "1873"),
    *(" The page says 1873.", "right"),
]
ROLES: list[str] = ["plan", "act", "reflect"]


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """Put a scripted backend in place of the engine; returns what the engine would be given."""

    def put(*replies: Reply) -> dict[str, Any]:
        given: dict[str, Any] = {}

        @contextmanager
        def embedded(model: Any, folders: Any, policy: Any, *_: Any) -> Iterator[Served]:
            given.update(model=model, folders=folders, policy=policy)
            roles: dict[str, str] = dict.fromkeys(folders or ROLES, "x")
            yield Served(ScriptedBackend(*replies), roles, "the-model", policy.value)

        monkeypatch.setattr(backends, "embedded", embedded)
        return given

    return put


def ask(docs: Path, *options: str) -> list[str]:
    return ["run", "--question", "When was Oland Bridge opened?", "--docs", str(docs), *options]


def test_steps_answer_and_summary(scripted: Callable[..., Any], docs: Path) -> None:
    scripted(*RIGHT)
    result = runner.invoke(app, ask(docs))
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0].startswith("  1 plan    thought   I need Oland Bridge.  (")
    assert "  1 tool    says      Oland Bridge: Oland Bridge was opened in 1873." in lines
    assert "Answer: 1873  (reflect says right)" in lines
    assert any("reflect │     2 │" in line for line in lines)


def test_json_is_the_trace_and_steps_go_to_stderr(
    scripted: Callable[..., Any], docs: Path, tmp_path: Path
) -> None:
    given = scripted(*RIGHT)
    file = tmp_path / "traces" / "run.json"
    options = ["--adapter", "plan=a", "--adapter", "act=b", "--sharing", "base+lr"]
    result = runner.invoke(app, ask(docs, *options, "--trace", str(file), "--json"))
    assert result.exit_code == 0
    trace = RunTrace.model_validate_json(result.stdout)
    assert (trace.answer, trace.verdict, trace.steps) == ("1873", "right", 3)
    assert (trace.model, trace.sharing) == ("the-model", "base+lr")
    assert RunTrace.load(file) == trace
    assert given["folders"] == {"plan": Path("a"), "act": Path("b")}
    assert "The base model writes for reflect." in result.stderr
    assert "1 plan    thought" in result.stderr


def test_nothing_is_shared_unless_asked(scripted: Callable[..., Any], docs: Path) -> None:
    given = scripted(*RIGHT)
    runner.invoke(app, ask(docs))
    assert given["policy"] == "isolated"


def test_no_answer_is_exit_1_with_the_reason(scripted: Callable[..., Any], docs: Path) -> None:
    scripted(*step("I look.", "Search", "bridge"))
    result = runner.invoke(app, ask(docs, "--max-steps", "1", "--json"))
    assert result.exit_code == 1
    assert json.loads(result.stdout)["status"] == "step_limit"
    assert "No answer: there was no answer within 1 steps" in result.stderr


def test_interrupt_keeps_what_was_done(scripted: Callable[..., Any], docs: Path) -> None:
    def interrupt() -> str:
        signal.raise_signal(signal.SIGINT)
        return " Search"

    scripted(" I look.", interrupt)
    before = signal.getsignal(signal.SIGINT)
    result = runner.invoke(app, ask(docs, "--json"))
    assert result.exit_code == 130
    trace = json.loads(result.stdout)
    assert (trace["status"], len(trace["calls"])) == ("cancelled", 2)
    assert result.stderr.endswith("Interrupted.\n")
    assert signal.getsignal(signal.SIGINT) is before


def test_trace_that_cannot_be_saved(scripted: Callable[..., Any], docs: Path) -> None:
    scripted(*RIGHT)
    (docs.parent / "file").touch()
    result = runner.invoke(app, ask(docs, "--trace", str(docs.parent / "file" / "t.json")))
    assert result.exit_code == 1
    assert "Answer: 1873" in result.stdout
    assert "cannot be saved" in result.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--adapter", "plna=x"], "'plna' is no role; did you mean 'plan'?"),
        (["--adapter", "plan"], "'plan' is not NAME=PATH"),
        (["--adapter", "plan=x", "--adapter", "plan=y"], "'plan' is given twice"),
        (["--adapters-dir", "nowhere"], "nowhere holds no folder named plan, act or reflect"),
        (["--sharing", "some"], "base+lr"),
        (["--base-url", "http://x/v1", "--sharing", "base"], "the server decides on --sharing"),
        (["--question", " "], "the question is empty"),
    ],
)
def test_usage_errors(docs: Path, options: list[str], message: str) -> None:
    result = runner.invoke(app, ask(docs, *options))
    assert result.exit_code == 2
    assert message in result.stderr


def test_documents_that_cannot_be_read(tmp_path: Path) -> None:
    result = runner.invoke(app, ask(tmp_path / "none"))
    assert result.exit_code == 1
    assert (
        result.stderr
        == f"{tmp_path / 'none'} is not a folder; give a folder with .md or .txt files\n"
    )


def test_on_the_engine(docs: Path, tiny_model: Path, adapters_dir: Path) -> None:
    options = ["--model", str(tiny_model), "--adapters-dir", str(adapters_dir)]
    result = runner.invoke(
        app, ask(docs, *options, "--sharing", "base+lr", "--kv-mib", "8", "--json")
    )
    assert result.exit_code == 1  # random weights find nothing
    trace = json.loads(result.stdout)
    assert trace["status"] == "malformed"
    assert {call["adapter"] for call in trace["calls"]} == {"plan", "act"}
    act = next(call for call in trace["calls"] if call["role"] == "act")
    assert act["reused_tokens"] > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", "/nowhere"], "There is no model folder /nowhere"),
        (["--adapter", "plan=/nowhere"], "/nowhere"),
        (["--adapters-dir", "ADAPTERS"], "not on smollm2"),
    ],
)
def test_models_and_adapters_that_do_not_load(
    docs: Path, tiny_model: Path, adapters_dir: Path, options: list[str], message: str
) -> None:
    options = [str(adapters_dir) if o == "ADAPTERS" else o for o in options]
    if "--adapter" in options:
        options += ["--model", str(tiny_model)]
    result = runner.invoke(app, ask(docs, *options))
    assert result.exit_code == 1
    assert message in result.stderr
    assert "Traceback" not in result.stderr
