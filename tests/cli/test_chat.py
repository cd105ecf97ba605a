from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from lragent.cli import chat
from lragent.cli.main import app

runner = CliRunner()


@pytest.fixture
def command(tiny_model: Path, adapters_dir: Path) -> list[str]:
    options = ["--model", str(tiny_model), "--adapter", str(adapters_dir / "plan")]
    return ["chat", "--max-tokens", "8", *options]


def test_one_prompt(command: list[str]) -> None:
    result = runner.invoke(app, [*command, "one two three", "--json"])
    assert result.exit_code == 0, result.stderr
    answer = json.loads(result.stdout)
    assert answer["generated_tokens"] == 8
    assert answer["text"]
    assert answer["cached_tokens"] == 0
    piped = runner.invoke(app, command, input="one two three")
    assert answer["text"] in piped.stdout


def test_a_conversation_keeps_what_was_said(
    command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    turn = chat._turn

    def watched(console: Any, backend: Any, messages: list[Any], *more: Any) -> Any:
        asked.append(len(messages))
        return turn(console, backend, messages, *more)

    said = iter(["one two", "", "three four"])

    def next_line(prompt: str) -> str:
        for line in said:
            return line
        raise EOFError

    monkeypatch.setattr(chat, "_turn", watched)
    monkeypatch.setattr("builtins.input", next_line)
    monkeypatch.setattr(chat, "_piped", lambda: None)
    result = runner.invoke(app, [*command, "--system", "zero"])
    assert result.exit_code == 0, result.stderr
    assert asked == [1, 3]
    assert result.stdout.count("prompt tokens") == 2


def test_nothing_to_say(command: list[str]) -> None:
    result = runner.invoke(app, command, input="  \n")
    assert result.exit_code == 2
    assert "the prompt is empty" in result.stderr
