from __future__ import annotations

import threading

import pytest
from tests.agents.scripted import ScriptedBackend, step

from lragent.agents import (
    AgentEvent,
    AgentResult,
    BackendError,
    ContextOverflowError,
    DocumentStore,
    EventKind,
    PlanActReflect,
    Role,
    Status,
    Verdict,
    WorkflowOptions,
)
from lragent.agents.tools import Toolbox

STORE = DocumentStore(
    [
        ("Alba", "Alba is a town on the River Oss. Its mayor is Ida Holm."),
        ("River Oss", "The River Oss is 90 km long."),
    ]
)
READ = step("I need to find Alba.", "Retrieve", "Alba")
RIVER = step("Alba lies on the Oss.", "Retrieve", "River Oss")
ANSWER = step("So the answer is 90 km.", "Finish", "90 km")
RIGHT = (" It is 90 km.", "right")
WRONG = (" It is not.", "wrong")


def run(backend: ScriptedBackend, **options: object) -> AgentResult:
    return PlanActReflect(backend, STORE, WorkflowOptions(**options)).run(  # pyright: ignore[reportArgumentType]
        "How long is the river of Alba?"
    )


def test_a_question_is_answered_in_steps():
    backend = ScriptedBackend(*READ, *RIVER, *ANSWER, *RIGHT)
    result = run(backend)
    assert (result.status, result.answer, result.verdict) == (
        Status.ANSWERED,
        "90 km",
        Verdict.RIGHT,
    )
    assert result.detail is None
    assert result.steps == 4
    assert "Observation 2: River Oss: The River Oss is 90 km long." in result.transcript
    assert [call.adapter for call in backend.calls] == [
        *["plan", "plan", "act"] * 3,
        *["reflect"] * 2,
    ]
    assert [call.params.stop[0] for call in backend.calls[:3]] == ["\n", "[", "]"]


def test_every_role_continues_the_prompt_of_the_one_before():
    backend = ScriptedBackend(*READ, *RIVER, *ANSWER, *WRONG, *ANSWER, *RIGHT)
    run(backend)
    replies = [str(reply) for reply in backend.replies]
    for before, reply, after in zip(backend.calls, replies, backend.calls[1:], strict=False):
        assert after.prompt.startswith(before.prompt + reply)


def test_wrong_verdict_brings_one_more_round():
    better = step("90 km was wrong.", "Finish", "91 km")
    result = run(ScriptedBackend(*READ, *ANSWER, *WRONG, *better, *RIGHT))
    assert (result.answer, result.verdict) == ("91 km", Verdict.RIGHT)


def test_after_the_last_round_the_answer_stands():
    result = run(ScriptedBackend(*ANSWER, *WRONG, *ANSWER, *WRONG))
    assert (result.status, result.answer, result.verdict) == (
        Status.ANSWERED,
        "90 km",
        Verdict.WRONG,
    )


def test_second_try_without_an_answer_keeps_the_first():
    result = run(ScriptedBackend(*ANSWER, *WRONG, *READ, *READ, *READ))
    assert (result.status, result.answer, result.verdict) == (
        Status.ANSWERED,
        "90 km",
        Verdict.WRONG,
    )
    assert result.detail is not None
    assert "no better answer" in result.detail


def test_unclear_verdict_accepts_the_answer():
    result = run(ScriptedBackend(*ANSWER, " Hm.", "perhaps"))
    assert (result.status, result.answer, result.verdict) == (Status.ANSWERED, "90 km", None)


def test_reflect_can_be_left_out():
    result = run(ScriptedBackend(*ANSWER), reflect=False)
    assert (result.answer, result.verdict, result.steps) == ("90 km", None, 1)


def test_step_limit():
    steps = [part for n in range(4) for part in step("Go on.", "Search", f"river {n}")]
    result = run(ScriptedBackend(*steps), max_steps=4)
    assert (result.status, result.answer, result.steps) == (Status.STEP_LIMIT, None, 4)
    assert result.detail == "there was no answer within 4 steps"


def test_loop():
    result = run(ScriptedBackend(*READ, repeat=5))
    assert (result.status, result.answer, result.steps) == (Status.LOOP, None, 3)
    assert result.detail == "Retrieve[Alba] brought the same 3 times"


def test_lookup_of_the_same_word_is_no_loop_while_it_finds_more():
    look = step("I look for is.", "Lookup", "is")
    result = run(ScriptedBackend(*READ, *look, *look, *ANSWER, *RIGHT))
    assert result.status is Status.ANSWERED
    assert "Observation 2: Alba is a town on the River Oss." in result.transcript
    assert "Observation 3: Its mayor is Ida Holm." in result.transcript


@pytest.mark.parametrize(
    ("bad", "observation"),
    [
        (step("Go.", "Browse", "Alba"), "There is no tool 'Browse'."),
        (step("Go.", "Search", " "), "Search needs an argument"),
        (step("Go.", "Finish", ""), "Finish needs the answer"),
        (step("", "", ""), "There is no tool ''."),
        (step("Go.", "Reflect", "right"), "There is no tool 'Reflect'."),
    ],
    ids=["unknown", "empty", "empty-answer", "nothing", "reflect"],
)
def test_malformed_actions_are_observed_then_end_the_run(
    bad: tuple[str, str, str], observation: str
):
    recovered = run(ScriptedBackend(*bad, *bad, *ANSWER, *RIGHT))
    assert recovered.status is Status.ANSWERED
    assert f"Observation 1: {observation}" in recovered.transcript
    ended = run(ScriptedBackend(*bad, repeat=3), max_repeats=9)
    assert (ended.status, ended.answer, ended.steps) == (Status.MALFORMED, None, 3)
    assert ended.detail is not None
    assert observation in ended.detail


def test_text_beyond_a_stop_string_is_cut():
    rambling = (" I go.\nAction 9: x", " Retrieve[River", "Alba] and more\nmore")
    result = run(ScriptedBackend(*rambling, *ANSWER, *RIGHT))
    assert result.transcript.startswith(
        "Thought 1: I go.\nAction 1: Retrieve[Alba]\nObservation 1: Alba: "
    )


def test_context_overflow_told_by_the_backend():
    result = run(ScriptedBackend(*READ, ContextOverflowError("2100 tokens are too many")))
    assert (result.status, result.detail) == (Status.CONTEXT_OVERFLOW, "2100 tokens are too many")
    assert len(result.calls) == 4


def test_context_limit_of_the_options():
    result = run(ScriptedBackend(*READ, *RIVER), max_context_tokens=100)
    assert result.status is Status.CONTEXT_OVERFLOW
    assert len(result.calls) == 1
    assert result.detail is not None
    assert "limit 100" in result.detail


@pytest.mark.parametrize("error", [BackendError("no answer"), RuntimeError("boom")])
def test_backend_errors_end_the_run(error: Exception):
    result = run(ScriptedBackend(*READ, " Then.", error))
    assert (result.status, result.answer) == (Status.BACKEND_ERROR, None)
    assert result.detail is not None
    assert str(error) in result.detail
    assert result.calls[-1].finish_reason == "backend_error"


def test_backend_error_after_an_answer_keeps_the_answer():
    result = run(ScriptedBackend(*ANSWER, BackendError("gone")))
    assert (result.status, result.answer) == (Status.BACKEND_ERROR, "90 km")


@pytest.mark.parametrize(
    ("reason", "status"), [("cancelled", Status.CANCELLED), ("error", Status.BACKEND_ERROR)]
)
def test_finish_reasons_of_the_backend(reason: str, status: Status):
    result = run(ScriptedBackend(*READ, finish_reason=reason))
    assert result.status is status
    assert len(result.calls) == 1


def test_cancel_ends_the_run_in_the_middle_of_a_text():
    backend = ScriptedBackend(*READ, *RIVER, *ANSWER)
    cancel = threading.Event()
    events: list[AgentEvent] = []

    def on_event(event: AgentEvent) -> None:
        events.append(event)
        if event.kind is EventKind.TEXT and event.step == 2:
            cancel.set()

    result = PlanActReflect(backend, STORE).run("How long?", on_event=on_event, cancel=cancel)
    assert (result.status, result.answer) == (Status.CANCELLED, None)
    assert result.transcript.endswith("Thought 2: Al")
    assert backend.closed == len(backend.calls) == 4
    assert events[-1].kind is EventKind.ENDED


def test_a_failing_listener_closes_the_call():
    backend = ScriptedBackend(*READ)

    def on_event(event: AgentEvent) -> None:
        if event.kind is EventKind.TEXT:
            raise OSError("the terminal is gone")

    with pytest.raises(OSError, match="terminal"):
        PlanActReflect(backend, STORE).run("How long?", on_event=on_event)
    assert backend.closed == 1


def test_events_come_in_order():
    events: list[AgentEvent] = []
    workflow = PlanActReflect(ScriptedBackend(*READ, *ANSWER, *RIGHT), STORE)
    result = workflow.run("How long is the river?", on_event=events.append)
    kinds = [event.kind for event in events if event.kind is not EventKind.TEXT]
    turn = [EventKind.TURN_STARTED, EventKind.TURN_ENDED]
    assert kinds == [*turn * 3, EventKind.OBSERVATION, *turn * 5, EventKind.ENDED]
    assert events[-1].result is result
    texts = "".join(e.text for e in events if e.kind is EventKind.TEXT)
    assert texts == "".join([*READ, *ANSWER, *RIGHT])
    ended = [e for e in events if e.kind is EventKind.TURN_ENDED]
    assert [e.call for e in ended] == list(result.calls)


def test_own_tools_and_their_failures():
    def explode(argument: str) -> str:
        raise ZeroDivisionError(argument)

    backend = ScriptedBackend(
        *step("Go.", "echo", "hi"), *step("Go.", "Explode", "now"), *ANSWER, *RIGHT
    )
    tools = {"Echo": str.upper, "Explode": explode}
    result = PlanActReflect(backend, lambda: Toolbox(tools)).run("What?")
    assert "Observation 1: HI\n" in result.transcript
    assert "Observation 2: Error: Explode failed: ZeroDivisionError: now.\n" in result.transcript
    assert result.status is Status.ANSWERED


def test_each_run_has_its_own_page():
    workflow = PlanActReflect(
        ScriptedBackend(*READ, *ANSWER, *RIGHT, *step("Look.", "Lookup", "mayor"), *ANSWER, *RIGHT),
        STORE,
    )
    workflow.run("One?")
    assert "Observation 1: No page is open." in workflow.run("Two?").transcript


def test_options_reach_the_backend():
    backend = ScriptedBackend(*ANSWER, *RIGHT)
    run(
        backend,
        adapters={Role.PLAN: "planner", Role.ACT: None},
        temperature=0.9,
        top_p=0.75,
        seed=5,
    )
    assert [call.adapter for call in backend.calls] == ["planner", "planner", None, None, None]
    assert [call.params.seed for call in backend.calls] == [5, 6, 7, 8, 9]
    assert {(c.params.temperature, c.params.top_p) for c in backend.calls} == {(0.9, 0.75)}


def test_empty_question_is_refused():
    with pytest.raises(ValueError, match="question is empty"):
        PlanActReflect(ScriptedBackend(), STORE).run("  \n")
