from __future__ import annotations

from pathlib import Path

import pytest
from tests.adapters.factory import make_adapter
from tests.engine.models import tiny_model
from tests.engine.tokenizer import byte_tokenizer

from lragent.agents import AgentResult, DocumentStore, PlanActReflect, Status, WorkflowOptions
from lragent.agents.engine_backend import EngineBackend
from lragent.agents.prompts import Role, Turn
from lragent.agents.together import run_together
from lragent.agents.workflow import Steps
from lragent.engine import Engine

STORE = DocumentStore([("Alba", "Alba is a town."), ("Oss", "The Oss is a river.")])
OPTIONS = WorkflowOptions(
    adapters={role: role.value for role in Role},
    max_steps=3,
    max_tokens=dict.fromkeys(Turn, 4),
    system_prompt="Act.",
)
QUESTIONS = ("How long is the Oss?", "Where is Alba?", "Who was Ida?", "When?", "Why not?")


@pytest.fixture
def engine(tmp_path: Path):
    model = tiny_model()
    model.resize_token_embeddings(260)
    roles = [role.value for role in Role]
    adapters = {role: make_adapter(tmp_path / role, model, seed=i) for i, role in enumerate(roles)}
    with Engine((model, byte_tokenizer()), adapters, kv_bytes=1 << 24, debug=True) as engine:
        yield engine


def runs(engine: Engine, steps_engine: bool) -> list[Steps]:
    return [
        PlanActReflect(
            EngineBackend(engine, cache_salt=question, steps_engine=steps_engine), STORE, OPTIONS
        ).steps(question)
        for question in QUESTIONS
    ]


def alone(run: Steps) -> AgentResult:
    while True:
        try:
            next(run)
        except StopIteration as end:
            return end.value


def test_runs_side_by_side_are_those_of_one_after_another(engine: Engine):
    expected = [alone(run) for run in runs(engine, True)]
    before = engine.stats().steps
    found = dict(run_together(engine, runs(engine, False), at_once=3))
    assert sorted(found) == list(range(len(QUESTIONS)))
    for place, result in enumerate(expected):
        assert result.calls
        assert result.status is not Status.BACKEND_ERROR
        assert found[place].transcript == result.transcript
        assert found[place].status is result.status
    # two waves, three runs and two; prompts that come together may need a step more
    assert engine.stats().steps - before < 0.5 * before


def test_leaving_early_ends_the_calls(engine: Engine):
    together = run_together(engine, runs(engine, False), at_once=4)
    next(together)
    assert engine.stats().pages["leased"] > 0
    together.close()
    assert engine.stats().pages["leased"] == 0
