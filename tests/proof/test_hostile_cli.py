"""Command lines made to harm: an exit code and a message, never a traceback or an endless run."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.agents.scripted import ScriptedBackend, step
from tests.proof.conftest import Beside
from typer.testing import CliRunner

from lragent.cli import backends
from lragent.cli.backends import Served
from lragent.cli.main import app

runner = CliRunner(env={"COLUMNS": "100"})
RIGHT = (*step("I look.", "Retrieve", "d"), *step("So.", "Finish", "1873"), " Yes.", "right")

OPTIONS = {
    "inspect": ["--base", "--max-rank"],
    "run": [
        "--question", "--docs", "--adapter", "--adapters-dir", "--model", "--sharing",
        "--max-steps", "--temperature", "--top-p", "--seed", "--kv-mib", "--trace",
    ],
    "train": [
        "--data", "--model", "--out", "--for", "--readers", "--mode", "--roles", "--group",
        "--rank", "--alpha", "--dropout", "--targets", "--epochs", "--max-steps", "--batch-size",
        "--learning-rate", "--role-learning-rate", "--warmup", "--max-length", "--seed",
        "--save-dtype", "--eval-data", "--device",
    ],
    "train-data": ["--data", "--out", "--seed", "--max-tokens-per-role", "--wrong-share"],
    "eval": ["--adapter", "--samples", "--trace", "--text", "--out", "--policy", "--per-role"],
}  # fmt: skip
# What a shell can hand over: no zero byte; bytes that are no UTF-8 come as lone surrogates.
WORDS = st.one_of(
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8),
    st.sampled_from(
        ["nan", "inf", "-1", "1e308", "9" * 40, "plan=", "plan=~nobody-of-this-name", "=x",
         "plan=nan", "~nobody-of-this-name", "/", ".", "/dev/null", "a" * 5000,
         os.fsdecode(b"\xff"), "neutral", "isolated", "plan,act", "cpu", "cuda:99", "5", "0.5"]
    ),
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Work in an empty folder with one document, and with a scripted model behind ``run``."""
    folder, before = tmp_path_factory.mktemp("cli"), Path.cwd()
    (folder / "docs").mkdir()
    (folder / "docs" / "d.md").write_text("It was opened in 1873.")
    embedded = backends.embedded

    @contextmanager
    def scripted(*_: Any) -> Iterator[Served]:
        yield Served(ScriptedBackend(*RIGHT), {}, "m", "isolated")

    os.chdir(folder)
    backends.embedded = scripted
    yield folder
    backends.embedded = embedded
    os.chdir(before)


def refused_or_done(words: list[str]) -> None:
    started = time.process_time()
    result = runner.invoke(app, words)
    assert result.exception is None or isinstance(result.exception, SystemExit), words
    assert result.exit_code in (0, 1, 2), words
    assert len(result.output) < 40_000
    assert time.process_time() - started < 5


@pytest.mark.parametrize("command", OPTIONS)
@settings(max_examples=15, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_any_options(command: str, beside: Beside, data: st.DataObject):
    chosen = data.draw(st.lists(st.sampled_from(OPTIONS[command]), max_size=4, unique=True))
    words = [command]
    given = {"run": ["--question", "When?", "--docs", "docs"]}.get(command, [])
    if command == "train":  # no model of the hub is asked for
        given = ["--data", "nothing.jsonl", "--model", "nowhere/", "--out", "out"]
    if command == "eval":
        given = ["--model", "nowhere/", "--text", "nothing.txt", "--out", "out"]
    words += given
    for option in chosen:
        if option not in given:
            words += [option, data.draw(WORDS)]
    if command == "inspect":
        words += data.draw(
            st.lists(WORDS.filter(lambda word: not word.startswith("-")), max_size=2)
        )
    beside(lambda: refused_or_done(words))


@settings(max_examples=15)
@given(words=st.lists(WORDS, max_size=4))
def test_any_words(beside: Beside, words: list[str]):
    beside(lambda: refused_or_done(words))


@pytest.mark.parametrize("words", [["inspect"], ["run", "--adapters-dir"]], ids=" ".join)
def test_an_unknown_users_home(beside: Beside, words: list[str]):
    beside(lambda: refused_or_done([*words, "~nobody-of-this-name/x"]))
