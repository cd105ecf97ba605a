"""The parts on an engine whose steps last a second: rows have the numbers that follow from it."""

from __future__ import annotations

import contextlib
import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from benchmarks.serving import drive as drive_module
from benchmarks.serving import parts
from benchmarks.serving.sizes import FULL, SMALL, with_options
from benchmarks.serving.turns import Turns
from tests.benchmarks.fake_engine import FakeEngine


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    """Its clock is the one that the parts read."""
    engine = FakeEngine(prefill=100)

    def drive(found: Any, sessions: Any, give_up: float | None = None) -> Any:
        return drive_module.drive(found, sessions, give_up, engine.clock, engine.sleep)

    monkeypatch.setattr(parts, "drive", drive)
    return engine


def test_handover(engine: FakeEngine):
    rows = list(parts.handover(engine, ["stock", "stock-one"], SMALL))
    found = {(row["policy"], row["case"]): row["ttft_ms"] for row in rows}
    for policy in ("stock", "stock-one"):
        assert found[policy, "cold, 64"] == found[policy, "other, 64"] == 1000
        assert found[policy, "cold, 256"] == 3000
    assert found["stock", "cold, no adapter, 256"] == 3000
    assert ("stock-one", "cold, no adapter, 256") not in found
    handed_over = [0, 0, 0, 0, 1, 0, 0, 2, 0, 0, 0]
    both = 2 * len(handed_over) + 1
    assert [ask.agent for ask in engine.log[:both]] == [*handed_over, None, *handed_over]
    for row in rows:
        times = {"same": 8, "other": 2}.get(row["kind"], 1)
        assert row["repeats"] == len(row["ttft_ms_each"]) == SMALL.repeats * 8 * times
        assert row["ttft_ms_each"] == [row["ttft_ms"]] * row["repeats"]
        assert row.get("over_same") == (1 if row["kind"] == "other" else None)
    # Cold prompts are new each time, and the same for all policies.
    firsts = [tuple(ask.prompt) for ask in engine.log[::both]]
    assert len(set(firsts)) == len(firsts)
    assert firsts == [tuple(ask.prompt) for ask in engine.log[len(handed_over) + 1 :: both]]
    assert engine.used == ["stock", "stock-one"] * (len(engine.used) // 2)


def test_engines_take_turns_request_by_request_in_a_hand_over(
    engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
):
    """As many turns for each, whatever it measures: else each would wait for the other."""
    asked: list[int] = []  # in each turn

    @contextlib.contextmanager
    def turn(_: Turns) -> Iterator[None]:
        before = len(engine.log)
        yield
        asked.append(len(engine.log) - before)

    monkeypatch.setattr(Turns, "turn", turn)
    turns = len(parts.HANDED_OVER)
    expected = {
        "stock": [1] * turns,
        "base": [1] * (turns - 1) + [0],  # no bare request
        "none left": [0] * turns,
    }
    repeats = sum(SMALL.repeats_at(length) + 1 for length in SMALL.contexts)
    for policies in (["stock", "none left"], ["base", "base"]):
        asked.clear()
        measured = [policy for policy in policies if policy != "none left"]
        list(parts.handover(engine, measured, SMALL, Turns(most=2)))
        assert asked == [number for policy in policies for number in expected[policy]] * repeats


def test_a_hand_over_is_compared_with_what_was_asked_beside_it():
    """The host was slower from the second hand-over on."""
    same, other = "same", "other"
    asked = [("cold", 9.0), (same, 1.0), (other, 1.1), (same, 1.2), (other, 3.0), (same, 2.8)]
    assert parts.over_neighbours(asked) == pytest.approx([1.0, 1.5])
    places = [place for place, (kind, _) in enumerate(parts.HANDED_OVER) if kind == other]
    for place in places:
        assert parts.HANDED_OVER[place - 1] == parts.HANDED_OVER[place + 1] == parts.AGAIN


def test_short_hand_overs_are_repeated_more_often():
    assert [FULL.repeats_at(length) for length in (1024, 8192, 32768)] == [24, 12, 6]


def test_workflow(engine: FakeEngine):
    sizes = with_options(SMALL, workflow_repeats=2, workflow_seconds=1e6)
    rows = list(parts.workflows(engine, ["isolated", "base+lr"], sizes))
    assert [row["policy"] for row in rows] == ["isolated", "base+lr"]
    for row in rows:
        assert row["case"] == "2 x 96"
        assert row["kv_bytes"] == 7
        assert row["tokens_per_s"] > 1
        assert row["tpot_ms"] == 1000  # a step lasts a second
        assert row["repeats"] == 2 * 2 * 9
    measured = engine.log[2 * 6 :]  # after the warm-up
    assert len(measured) == 2 * 2 * 2 * 9
    assert sum(ask.new_tokens for ask in measured) == 2 * 2 * 2 * 9 * 6
    assert engine.used == ["isolated", "base+lr"] * 3


def test_a_policy_that_took_its_time_is_repeated_no_more(engine: FakeEngine):
    sizes = with_options(SMALL, workflow_repeats=3, workflow_seconds=1.0)
    (row,) = parts.workflows(engine, ["base"], sizes)
    assert row["repeats"] == 2 * 9


def test_trace(engine: FakeEngine):
    short, long = parts.traces(engine, ["base"], with_options(SMALL, trace_repeats=1))
    assert len(engine.log) == 1 + 2 * 2 * 17  # the longest prompt, and each trace once unmeasured
    assert (short["case"], long["case"]) == ("976", "1168")
    # Every prompt is prefilled whole, 100 tokens a second, and its last step gives a token.
    sums = sum(-(-len(ask.prompt) // 100) for ask in engine.log[-17:])
    assert long["ttft_ms"] == 1000 * sums
    assert long["tokens_per_s"] == pytest.approx(1168 / (sums + 280 - 17), rel=1e-4)


def test_tight(engine: FakeEngine):
    (row,) = parts.tight_traces(engine, ["base"], with_options(SMALL, repeats=1))
    assert row["case"] == "3 x 1168"
    assert len(engine.log) == 2 * 3 * 17  # the first time with the shortest traces
    assert row["repeats"] == 3 * 17


@pytest.mark.parametrize("seconds", [1.0, 0.01])
def test_open_loop(engine: FakeEngine, tmp_path: Path, seconds: float):
    engine.seconds = seconds
    record = {
        "id": "a", "system": "s", "task": "t", "prompt_tok": 20, "roles": ["plan", "act"],
        "ctx_tok": [30, 60], "new_tok": [5, 5],
    }  # fmt: skip
    data = tmp_path / "trajectories.jsonl.gz"
    with gzip.open(data, "wt") as lines:
        lines.write(json.dumps(record) + "\n")
    rows = parts.open_loop(engine, ["stock", "stock-one"], with_options(SMALL, data=str(data)))
    # A row is there before the next rate begins.
    first, asked = next(rows), len(engine.log)
    assert (first["case"], first["policy"], first["given_up"]) == ("1/s", "stock", False)
    found = [(row["case"], row["policy"]) for row in (first, *rows)]
    fast = [("4/s", "stock"), ("4/s", "stock-one")]
    # With steps of a second p90 TTFT is no less, and higher rates are not tried.
    assert found == [("1/s", "stock"), ("1/s", "stock-one"), *(fast if seconds < 1 else [])]
    assert (len(engine.log) > asked) == (seconds < 1)


def test_the_case_names_another_budget(engine: FakeEngine):
    sizes = with_options(SMALL, repeats=1, tight_share=1.05)
    (row,) = parts.tight_traces(engine, ["base"], sizes)
    assert row["case"] == "3 x 1168 in 1.05"
