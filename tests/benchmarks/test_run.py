"""A call of the serving benchmark: who is told what, and what the file has at the end."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from benchmarks.common.files import load
from benchmarks.common.processes import Job, JobError
from benchmarks.common.sources import HERE, SourceTree
from benchmarks.serving import run
from benchmarks.serving.plan import Setup, make_plan
from benchmarks.serving.policies import with_old
from benchmarks.serving.rows import row

SETUP = Setup("agents", 16, ("workflow",), {"max_model_len": 512})


@pytest.fixture
def other(tmp_path: Path) -> SourceTree:
    (tmp_path / "other" / "src" / "lragent").mkdir(parents=True)
    (tmp_path / "other" / "src" / "lragent" / "__init__.py").touch()
    (tmp_path / "other" / "pyproject.toml").write_text(
        '[project]\nname = "lragent"\nversion = "1"\n[project.entry-points]\n'
    )
    return SourceTree(tmp_path / "other")


def measured(monkeypatch: pytest.MonkeyPatch, done: bool) -> dict[str, Job]:
    """Put a stand-in for the processes in place; the jobs that it gets."""
    got: dict[str, Job] = {}

    def run_all(jobs: Mapping[str, Job], folder: Path, **_: Any) -> dict[str, Any]:
        got.update(jobs)
        return {
            name: {
                "engine": {"kv_tokens": 64},
                "rows": [row("workflow", "a", job.data["policies"][0], tokens_per_s=[100])],
                "seconds": 3.0,
                "done": done,
            }
            for name, job in jobs.items()
        }

    monkeypatch.setattr(run, "run_all", run_all)
    return got


def test_both_trees_are_measured_in_turns(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, other: SourceTree
):
    got = measured(monkeypatch, done=True)
    measurement = run.Measurement(
        tmp_path, "m", {16: {}}, {}, [HERE, other], plugin_settings={"enforce_eager": True}
    )
    plan = make_plan([SETUP], with_old(["stock", "base+lr"]), together=True)
    result: dict[str, Any] = {"engines": {}, "rows": []}
    measurement.run(plan, result, tmp_path / "x.json", float("inf"))
    stock, new, old = got.values()
    assert list(got) == ["agents, stock", "agents, base+lr", "agents, old:base+lr"]
    assert [job.data["place"] for job in (stock, new, old)] == [0, 1, 2]
    assert len({job.data["turns"] for job in (stock, new, old)}) == 1
    assert [job.data["source"] for job in (new, old)] == [str(HERE.root), str(other.root)]
    assert new.env["PYTHONPATH"].startswith(str(HERE.root / "src"))
    assert old.env["PYTHONPATH"].startswith(str(other.root / "src"))
    assert "lragent" not in stock.env["VLLM_PLUGINS"].split(",")
    assert stock.data["settings"] == {"max_model_len": 512}
    assert new.data["settings"] == {"max_model_len": 512, "enforce_eager": True}
    [entry] = load(tmp_path / "x.json")["new_over_old"]
    assert (entry["policy"], entry["ratio"]) == ("base+lr", 1.0)


def test_a_call_that_runs_out_of_time_keeps_what_it_has(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    measured(monkeypatch, done=False)
    measurement = run.Measurement(tmp_path, "m", {16: {}}, {}, [HERE])
    plan = make_plan([SETUP], ["base"], together=False)
    result: dict[str, Any] = {"engines": {}, "rows": []}
    with pytest.raises(JobError, match="cut off after 5 s: agents, base"):
        measurement.run(plan, result, tmp_path / "x.json", 5.0)
    kept = load(tmp_path / "x.json")
    assert [found["policy"] for found in kept["rows"]] == ["base"]
    assert kept["engines"] == {"agents, base": {"kv_tokens": 64, "max_model_len": 512}}


@pytest.mark.parametrize("known", [True, False])
def test_a_row_that_vllm_cannot_give_is_left_out_with_its_reason(
    monkeypatch: pytest.MonkeyPatch, known: bool
):
    from benchmarks.serving import engine

    monkeypatch.setattr(engine, "knows_targets", lambda: known)
    found = run.skipped(["stock", "stock-targets", "stock-targets-one"])
    assert list(found) == ([] if known else ["stock-targets", "stock-targets-one"])
    assert all("no --lora-target-modules" in why for why in found.values())
