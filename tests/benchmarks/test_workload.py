"""Prompts and sessions are those of the paper and of the data file."""

from __future__ import annotations

import gzip
import itertools
import json
from pathlib import Path

import pytest
from benchmarks.serving.drive import Ask, Session
from benchmarks.serving.trajectories import arrivals, read, session
from benchmarks.serving.workload import draw, trace, trace_length, trace_steps, workflow


def asks(running: Session) -> list[Ask]:
    """All requests of a session; each is answered by its number, repeated."""
    found = [next(running)]
    while True:
        try:
            found.append(running.send([len(found)] * found[-1].new_tokens))
        except StopIteration:
            return found


def is_prefix(a: Ask, b: Ask) -> bool:
    return list(b.prompt)[: len(a.prompt)] == list(a.prompt)


@pytest.mark.parametrize("chunk", [256, 512, 1024, 2048, 4096, 8192, 16384])
def test_the_trace_has_the_tokens_of_the_paper(chunk: int):
    steps = trace_steps(chunk)
    assert len(steps) == 17
    assert sum(generate for _, _, generate in steps) == 280
    assert trace_length(chunk) == 912 + 4 * chunk


def test_trace_prompts_extend_each_other():
    found = asks(trace(16, 100, "x"))
    assert len(found) == 17
    assert all(is_prefix(a, b) for a, b in itertools.pairwise(found))
    assert len(found[-1].prompt) + found[-1].new_tokens == trace_length(16)
    assert [ask.agent for ask in found] == [*[0, 0, 1] * 5, 2, 2]


def test_workflow_passes_three_agents_three_times():
    found = asks(workflow([7] * 50, lambda step: [90 + step] * 20, generate=6))
    assert [ask.agent for ask in found] == [0, 1, 2] * 3
    assert [len(ask.prompt) for ask in found] == [50 + 26 * step for step in range(9)]
    assert list(found[1].prompt)[50:] == [1] * 6 + [90] * 20


def test_a_page_is_the_prompt_from_the_last_tool_s_output_on():
    found = asks(workflow([7] * 50, lambda step: [90 + step] * 20, generate=6))
    assert [ask.page for ask in found] == [0] + [20] * 8
    found = asks(trace(1000, 100, "x"))
    # A chunk, then what plan and act add: 32 and 8, 8 and 8.
    pages = [1000, 1040, 1056]
    assert [ask.page for ask in found] == [0] * 3 + pages * 4 + [1096, 1136]


def test_the_same_names_give_the_same_tokens():
    assert draw(100, 20, "a", 1) == draw(100, 20, "a", 1)
    assert draw(100, 20, "a", 1) != draw(100, 20, "a", 2)
    assert min(draw(10, 500, "ids")) == 3
    assert max(draw(10, 500, "ids")) == 9


def record(name: str, roles: list[str], context: list[int], new: list[int], **more) -> dict:
    base = {"id": name, "system": "s", "task": "t", "prompt_tok": 30}
    return {**base, "roles": roles, "ctx_tok": context, "new_tok": new, **more}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    records = [
        record("one", ["plan", "act", "tool", "reflect"], [40, 45, 50, 80], [5, 5, 30, 9]),
        record("two", ["plan", "act", "plan"], [38, 43, 36], [5, 9, 4], prompt_tok=34),
        record("alone", ["plan", "tool"], [40, 45], [5, 5]),
        record("others", ["plan", "act", "user"], [40, 45, 50], [5, 5, 5]),
        record("long", ["plan", "act"], [40, 5000], [5, 5]),
    ]
    path = tmp_path / "lengths.jsonl.gz"
    with gzip.open(path, "wt") as out:
        out.writelines(json.dumps(row) + "\n" for row in records)
    return path


def test_trajectories_of_known_agents_are_kept(data: Path):
    found = read(data, longest=1000)
    assert [t.name for t in found] == ["one", "two"]
    assert found[0].calls == ((0, 40, 5), (1, 45, 5), (2, 80, 9))
    assert {t.prefix_tokens for t in found} == {30}
    assert [t.length for t in found] == [89, 52]


def test_a_trajectory_has_the_lengths_of_its_record(data: Path):
    one, two = read(data, longest=1000)
    first = asks(session(one, 500, "x"))
    assert [(ask.agent, len(ask.prompt), ask.new_tokens) for ask in first] == list(one.calls)
    assert all(is_prefix(a, b) for a, b in itertools.pairwise(first))
    second = asks(session(two, 500, "y"))
    assert [len(ask.prompt) for ask in second] == [38, 43, 36]
    # Another attempt begins with the instructions, which both traces share, and nothing else.
    assert second[0].prompt[:30] == second[2].prompt[:30] == first[0].prompt[:30]
    assert second[0].prompt[30:36] != second[2].prompt[30:]
    assert second[0].prompt[30:36] != first[0].prompt[30:36]


def test_arrivals_are_seeded_and_as_many_as_the_rate_says(data: Path):
    known = read(data, longest=1000)
    found = arrivals(known, rate=20, seconds=50, vocab=500)
    dues = [due for due, _ in found]
    assert dues == [due for due, _ in arrivals(known, rate=20, seconds=50, vocab=500)]
    assert dues == sorted(dues)
    assert dues[-1] < 50
    assert abs(len(found) - 1000) < 5 * 1000**0.5
    assert len(arrivals(known, rate=0.001, seconds=1, vocab=500)) == 1


def test_bad_data_is_refused(data: Path, tmp_path: Path):
    with pytest.raises(ValueError, match="no trajectory of two agents within 10 tokens"):
        read(data, longest=10)
    with pytest.raises(ValueError, match="cannot read"):
        read(tmp_path / "missing", longest=10)
    plain = tmp_path / "plain"
    plain.write_text("{}\n")
    with pytest.raises(ValueError, match="cannot read"):
        read(plain, longest=10)
