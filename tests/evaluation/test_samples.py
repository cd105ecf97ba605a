from __future__ import annotations

from pathlib import Path

import pytest
from tests.agents.scripted import ScriptedBackend, step
from tests.engine.tokenizer import byte_tokenizer

from lragent.agents import DocumentStore, PlanActReflect, RunTrace
from lragent.evaluation.errors import EvaluationError
from lragent.evaluation.samples import (
    EvalSample,
    choose,
    encode_samples,
    samples_of_trace,
    windows,
)
from lragent.training.samples import Message, Sample


def test_a_trace_gives_the_prompt_and_output_of_every_call(tmp_path: Path) -> None:
    """The tool's name and argument stand in the thought too, which must not mislead."""
    backend = ScriptedBackend(
        *step("I Retrieve Alba [now] with Action 1: Retrieve.", "Retrieve", "Alba"),
        *step("Alba is a town.", "Finish", "a town"),
        " It fits.",
        "right",
    )
    store = DocumentStore([("Alba", "Alba is a town.")])
    path = tmp_path / "trace.json"
    RunTrace.of(PlanActReflect(backend, store).run("What is Alba?")).save(path)
    samples = samples_of_trace(path)
    prompts = ["".join(m.content for m in s.input) for s in samples if not isinstance(s.input, str)]
    assert prompts == [call.prompt for call in backend.calls]
    assert [(s.role, s.output) for s in samples] == [
        ("plan", " I Retrieve Alba [now] with Action 1: Retrieve.\n"),
        ("plan", " Retrieve["),
        ("act", "Alba]"),
        ("plan", " Alba is a town.\n"),
        ("plan", " Finish["),
        ("act", "a town]"),
        ("reflect", " It fits.\n"),
        ("reflect", "right]"),
    ]


def test_a_trace_that_does_not_fit_its_transcript_is_refused(tmp_path: Path) -> None:
    backend = ScriptedBackend(*step("So.", "Finish", "a town"), " It fits.", "right")
    store = DocumentStore([("Alba", "Alba is a town.")])
    trace = RunTrace.of(PlanActReflect(backend, store).run("What is Alba?"))
    path = tmp_path / "trace.json"
    trace.model_copy(update={"transcript": trace.transcript.replace("So.", "No.")}).save(path)
    with pytest.raises(EvaluationError, match="text of plan in step 1"):
        samples_of_trace(path)


def test_samples_are_tokenised_as_in_training() -> None:
    tokenizer = byte_tokenizer()
    messages = [Message(role="user", content="hi"), Message(role="assistant", content="so")]
    (sample,) = encode_samples([Sample(role="act", input=messages, output=" it")], tokenizer, "s")
    assert tokenizer.decode(list(sample.context)) == "<|user|>hi<|end|><|assistant|>so"
    assert tokenizer.decode(list(sample.output)) == " it"
    assert (sample.role, sample.id) == ("act", "s:act:1")


def test_windows_spread_over_the_text_and_each_role_scores_each() -> None:
    found = windows(list(range(100)), ("a", "b"), length=20, turn=10, count=3)
    assert [(s.role, s.context[0], s.output) for s in found if s.role == "b"] == [
        ("b", start, tuple(range(start + 20, start + 30))) for start in (0, 35, 70)
    ]
    assert [s.context for s in found if s.role == "a"] == [
        s.context for s in found if s.role == "b"
    ]


@pytest.mark.parametrize(("tokens", "count"), [(29, 0), (30, 1), (39, 1), (40, 2)])
def test_windows_do_not_repeat_outputs(tokens: int, count: int) -> None:
    assert len(windows(list(range(tokens)), ("a",), length=20, turn=10, count=9)) == count


def of_role(role: str, count: int, length: int = 5) -> list[EvalSample]:
    return [EvalSample(f"{role}{i}", role, tuple(range(length)), (1,)) for i in range(count)]


def test_roles_take_turns_and_more_samples_begin_alike() -> None:
    samples = of_role("a", 9) + of_role("b", 2)
    few = choose(samples, ("a", "b"), per_role=2, limit=100, seed=0)
    assert [s.role for s in few] == ["a", "b", "a", "b"]
    more = choose(samples, ("a", "b"), per_role=4, limit=100, seed=0)
    assert more[:4] == few
    assert [s.role for s in more[4:]] == ["a", "a"]


def test_a_role_with_one_fitting_sample_is_refused() -> None:
    samples = of_role("a", 5) + of_role("b", 1) + of_role("b", 3, length=50)
    with pytest.raises(EvaluationError, match="b has 1 samples of at most 20 tokens"):
        choose(samples, ("a", "b"), per_role=4, limit=20, seed=0)
