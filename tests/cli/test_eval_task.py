from __future__ import annotations

import gzip
import json
from pathlib import Path

from tests.agents.trajectories.hotpot import BRIDGE, COMPARISON
from typer.testing import CliRunner

from lragent.cli.main import app

runner = CliRunner(env={"COLUMNS": "160"})


def test_policies_answer_the_same_questions(tiny_model: Path, adapters_dir: Path, tmp_path: Path):
    lines = "".join(json.dumps(record) + "\n" for record in (BRIDGE, COMPARISON))
    (tmp_path / "hotpotqa_dev.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    command = ["eval-task", "hotpotqa", "--data", str(tmp_path), "--model", str(tiny_model)]
    command += ["--adapters-dir", str(adapters_dir), "--policy", "base+lr", "--kv-mib", "8"]
    command += ["--out", str(tmp_path / "out")]
    result = runner.invoke(app, [*command, "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert (found["task"], found["questions"]) == ("hotpotqa", 2)
    assert [arm["arm"] for arm in found["arms"]] == ["isolated", "base+lr"]
    assert found["arms"][1]["differences"][0]["reference"] == "isolated"
    assert json.loads((tmp_path / "out" / "hotpotqa.json").read_text()) == found
    kept = (tmp_path / "out" / "hotpotqa-base+lr.jsonl").read_text()
    again = runner.invoke(app, command)
    assert again.exit_code == 0, again.output
    assert "base+lr" in again.stdout
    assert (tmp_path / "out" / "hotpotqa-base+lr.jsonl").read_text() == kept


def test_an_unknown_task(tmp_path: Path):
    result = runner.invoke(app, ["eval-task", "hotpot", "--data", str(tmp_path)])
    assert result.exit_code == 1
    assert "there are hotpotqa" in result.output
