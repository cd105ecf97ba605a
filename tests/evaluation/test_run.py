from __future__ import annotations

import json
import re
import shutil
import signal
import threading
from html.parser import HTMLParser
from pathlib import Path

import pytest
from tests.adapters.factory import edit_tensors
from tests.engine.models import prompt_of
from typer.testing import CliRunner

from lragent.cli.main import app
from lragent.engine import Engine, SamplingParams
from lragent.evaluation.cases import Case
from lragent.evaluation.config import EvalConfig
from lragent.evaluation.inputs import Inputs
from lragent.evaluation.meter import Measurement, Meter
from lragent.evaluation.report import write_report
from lragent.evaluation.run import Evaluation, evaluate
from lragent.sharing import Policy
from lragent.sharing.measured import MeasuredSharingError

TEXT = " ".join(f"w{i}" for i in prompt_of(200, 5, vocab=64))
INPUTS = Inputs([], TEXT)
"""No samples, so text is cut into turns for everything."""
CASES = 2 * 3 + 2 * 3 + 3
"""Two windows a role for readers, one of each length, one for hand-overs."""


@pytest.fixture
def config(model_folder: Path, group: dict[str, Path]) -> EvalConfig:
    return EvalConfig(
        model=str(model_folder), adapters=group, per_role=2, lengths=(64, 96), per_length=1,
        hand_overs=(1, 2), per_hand_over=1, turn=4, device="cpu", kv_bytes=8 << 20,
    )  # fmt: skip


def test_text_alone_is_enough(config: EvalConfig, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    found = evaluate(config, INPUTS, tmp_path, lambda done, total: seen.append((done, total)))
    assert seen == [(done, CASES) for done in range(CASES + 1)]
    assert found.complete
    assert Evaluation.model_validate_json((tmp_path / "result.json").read_text()) == found
    policies = ["isolated", "base model", *(p.value for p in Policy if p is not Policy.ISOLATED)]
    assert [(c.policy, c.role) for c in found.readers] == [
        (policy, role) for role in ("plan", "act", "reflect") for policy in policies
    ]
    assert {c.context for c in found.lengths} == {64, 96}
    assert {c.hand_overs for c in found.hand_overs if c.policy == "full"} == {1, 2}
    assert len(found.by_reader) == 3 * (2 + 2 * (len(policies) - 2))


def test_an_interrupted_run_goes_on(config: EvalConfig, tmp_path: Path) -> None:
    cancel = threading.Event()

    def stop_after_five(done: int, total: int) -> None:
        if done == 5:
            cancel.set()

    first = evaluate(config, INPUTS, tmp_path, stop_after_five, cancel)
    assert (first.complete, len(first.cases), first.verdict) == (False, 5, None)
    seen: list[int] = []
    second = evaluate(config, INPUTS, tmp_path, lambda done, total: seen.append(done))
    assert seen == list(range(5, CASES + 1))
    assert second.complete
    assert second.cases[:5] == first.cases
    assert second == evaluate(config, INPUTS, tmp_path / "at-once").model_copy(
        update={"cases": second.cases}
    )


class _Addresses(HTMLParser):
    """Collects what a browser would load."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [v or "" for name, v in attrs if name in ("src", "href", "xlink:href")]


def test_the_report_needs_no_network(config: EvalConfig, tmp_path: Path) -> None:
    found = evaluate(config, INPUTS, tmp_path)
    write_report(found, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    addresses = _Addresses()
    addresses.feed(page)
    assert all(address.startswith("#") for address in addresses.found)
    assert not re.search(r"@import|url\((?!#)", page)
    assert page.count("<svg") == 3
    assert found.verdict is not None
    assert str(found.verdict) in page.lower()
    for role in config.adapters:
        assert f'<td class="name">{role}</td>' in page


@pytest.fixture
def command(config: EvalConfig, tmp_path: Path) -> list[str]:
    text = tmp_path / "text.txt"
    text.write_text(TEXT)
    adapters = [f"--adapter={role}={path}" for role, path in config.adapters.items()]
    amounts = ["--quick", "--per-role=2", "--length=64", "--kv-mib=8"]
    where = [f"--model={config.model}", f"--text={text}", f"--out={tmp_path / 'out'}"]
    return ["eval", *adapters, *amounts, *where]


runner = CliRunner(env={"COLUMNS": "160"})


def test_command(command: list[str], tmp_path: Path) -> None:
    done = runner.invoke(app, command)
    assert done.exit_code == 0, done.output
    assert "Verdict: " in done.stdout
    assert str(tmp_path / "out" / "report.html") in done.stdout
    assert (tmp_path / "out" / "report.html").is_file()
    as_json = runner.invoke(app, [*command, "--json"])
    assert as_json.exit_code == 0, as_json.output
    assert json.loads(as_json.stdout) == json.loads((tmp_path / "out" / "result.json").read_text())


def test_missing_packages_are_told_before_anything_runs(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lragent.evaluation.report.find_spec", lambda name: None)
    done = runner.invoke(app, command)
    assert done.exit_code == 1
    assert "pip install 'lragent[eval]'" in done.output
    assert not (tmp_path / "out").exists()


def test_ctrl_c_keeps_what_was_measured(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure, calls = Meter.measure, 0

    def interrupt_in_the_third(self: Meter, case: Case) -> list[Measurement]:
        nonlocal calls
        calls += 1
        if calls == 3:
            signal.raise_signal(signal.SIGINT)
        return measure(self, case)

    monkeypatch.setattr(Meter, "measure", interrupt_in_the_third)
    done = runner.invoke(app, [*command, "--json", "--save"])
    assert done.exit_code == 130, done.output
    assert "the same command goes on" in done.stderr
    data = json.loads(done.stdout)
    assert (data["complete"], len(data["cases"]), data["verdict"]) == (False, 3, None)
    assert "was interrupted" in (tmp_path / "out" / "report.html").read_text()


def test_a_saved_verdict_is_what_measured_means(
    command: list[str],
    config: EvalConfig,
    model_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    adapters = {role: tmp_path / role for role in config.adapters}
    for role, path in config.adapters.items():
        shutil.copytree(path, adapters[role])
    arguments = [a for a in command if not a.startswith("--adapter")]
    arguments += [f"--adapter={role}={path}" for role, path in adapters.items()]
    with pytest.raises(MeasuredSharingError, match="lragent eval --save --adapter plan="):
        Engine(str(model_folder), adapters, "measured", device="cpu")
    monkeypatch.setenv("HOME", str(tmp_path))
    adapters = {role: Path("~") / role for role in adapters}
    done = runner.invoke(app, [*arguments, "--save", "--limit-nll=9", "--limit-exact=100"])
    assert done.exit_code == 0, done.output
    options = {"device": "cpu", "kv_bytes": 1 << 20, "lr_slots": 1, "max_lora_rank": 4}
    with Engine(str(model_folder), adapters, "measured", **options) as engine:
        prompt = prompt_of(40, vocab=64)
        engine.generate(prompt, adapter="plan", sampling_params=SamplingParams(max_tokens=1))
        assert engine.generate(prompt, adapter="act").cached_tokens >= 32, "they share"
        engine.load_adapter("later", config.adapters["reflect"])
        assert engine.generate(prompt, adapter="later").cached_tokens == 0, "it was not measured"


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (("plan", "act"), "measured in another group"),
        (("plan", "act", "changed"), "weights of adapter 'changed' are not those"),
    ],
)
def test_other_adapters_than_those_measured_are_refused(
    config: EvalConfig, model_folder: Path, tmp_path: Path, names: tuple[str, ...], reason: str
) -> None:
    folders = {role: tmp_path / role for role in config.adapters}
    for role, path in config.adapters.items():
        shutil.copytree(path, folders[role])
    found = evaluate(config, INPUTS, tmp_path / "out")
    assert found.verdict is not None
    found.verdict.save(config.model_copy(update={"adapters": folders}))
    folders["changed"] = shutil.copytree(folders["reflect"], tmp_path / "changed")
    edit_tensors(folders["changed"], lambda t: {n: 1.01 * value for n, value in t.items()})
    with pytest.raises(MeasuredSharingError, match=reason):
        Engine(str(model_folder), {n: folders[n] for n in names}, "measured", device="cpu")
