"""Agents answer a task's questions, many conversations at once, and every answer is kept."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lragent.adapters import read_adapter
from lragent.agents import AgentResult, PlanActReflect, Role, Status, WorkflowOptions
from lragent.agents.engine_backend import EngineBackend
from lragent.agents.together import run_together
from lragent.agents.tools import Toolbox, document_toolbox
from lragent.agents.workflow import Steps
from lragent.engine import Engine
from lragent.evaluation.errors import EvaluationError
from lragent.evaluation.journal import Journal, Keyed
from lragent.evaluation.tasks.questions import Question, Task
from lragent.sharing import Policy


class Answer(Keyed):
    """What became of a question; `key` is the question's.

    Attributes:
        status: how the run ended.
        answer: the last one given.
        exact, f1: its scores; a run without an answer scores nothing.
        steps, calls: of the run.
        tool_errors: calls of tools that do not exist, lack an argument, or failed.
        prompt_tokens, reused_tokens, generated_tokens: sums over the calls.
        transcript: the whole trajectory.
    """

    status: Status
    answer: str | None
    exact: bool
    f1: float
    steps: int
    calls: int
    tool_errors: int
    prompt_tokens: int
    reused_tokens: int
    generated_tokens: int
    transcript: str


@dataclass(frozen=True)
class Agents:
    """Who answers, and how they share.

    Attributes:
        model: base model, as `Engine` takes it.
        adapters: PEFT folders by role name; none for the bare base model in every role.
        policy: sharing policy of the adapters.
        at_once: conversations under way.
        options: limits of the runs; decoding is greedy.
        engine: further arguments of `Engine`.
    """

    model: str
    adapters: Mapping[str, Path] = field(default_factory=dict)
    policy: Policy = Policy.ISOLATED
    at_once: int = 64
    options: WorkflowOptions = field(default_factory=WorkflowOptions)
    engine: Mapping[str, object] = field(default_factory=dict)


def answer_questions(
    task: Task,
    agents: Agents,
    journal: Path,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    cancel: threading.Event | None = None,
) -> list[Answer]:
    """Answer the questions that the journal does not hold; returns all answers in their order.

    Every conversation has a cache salt of its own: within it the agents share, and what others ask
    at the same time changes nothing.

    Args:
        task: the questions.
        agents: who answers.
        journal: file that gets each answer as it comes, and is continued.
        on_progress: called with the questions done and all of them, at the start and after each.
        cancel: setting it ends the work; whole answers are kept.

    Raises:
        EvaluationError: sampling instead of greedy decoding, or a journal of something else.
        AdapterError, EngineError, UnsupportedModelError: as `Engine` does.
    """
    if agents.options.temperature:
        raise EvaluationError("answers are compared by question, which needs temperature 0")
    with Engine(
        agents.model,
        agents.adapters,
        agents.policy,
        max_num_seqs=agents.at_once,
        **agents.engine,  # pyright: ignore[reportArgumentType] the caller's, checked there
    ) as engine:
        kept = Journal(journal, Answer, _identity(task, agents, engine.shape.digest))
        missing = [question for question in task.questions if question.key not in kept.results]
        total = len(task.questions)
        on_progress(total - len(missing), total)
        for done, answer in enumerate(
            _answers(engine, task, agents, missing, cancel), start=total - len(missing) + 1
        ):
            kept.add(answer)
            on_progress(done, total)
    return [kept.results[q.key] for q in task.questions if q.key in kept.results]


def _answers(
    engine: Engine,
    task: Task,
    agents: Agents,
    questions: Sequence[Question],
    cancel: threading.Event | None,
) -> Iterator[Answer]:
    roles = {role: role.value if role.value in agents.adapters else None for role in Role}
    options = replace(agents.options, adapters=roles)
    toolboxes: dict[int, Toolbox] = {}

    def start(place: int, question: Question) -> Steps:
        def tools() -> Toolbox:
            toolboxes[place] = document_toolbox(task.store(question))
            return toolboxes[place]

        backend = EngineBackend(engine, cache_salt=question.id, steps_engine=False)
        return PlanActReflect(backend, tools, options).steps(question.question, cancel=cancel)

    runs = (start(place, question) for place, question in enumerate(questions))
    with closing(run_together(engine, runs, agents.at_once)) as ended:
        for place, result in ended:
            if result.status is Status.CANCELLED:
                return
            yield _scored(questions[place], result, toolboxes.pop(place).errors)


def _scored(question: Question, result: AgentResult, errors: int) -> Answer:
    if result.status is Status.BACKEND_ERROR:
        raise EvaluationError(f"the question {question.id} could not be run: {result.detail}")
    return Answer(
        key=question.key,
        status=result.status,
        answer=result.answer,
        exact=question.exact(result.answer),
        f1=question.f1(result.answer),
        steps=result.steps,
        calls=len(result.calls),
        tool_errors=errors,
        prompt_tokens=result.prompt_tokens,
        reused_tokens=result.reused_tokens,
        generated_tokens=result.generated_tokens,
        transcript=result.transcript,
    )


def _identity(task: Task, agents: Agents, weights: str) -> dict[str, Any]:
    """What answers depend on; more questions of the same task may be added later."""
    options = agents.options
    return {
        "task": task.name,
        "library": hashlib.sha256(repr(task.pages).encode()).hexdigest(),
        "model": agents.model,
        "weights": weights,
        "adapters": {role: read_adapter(path).digest for role, path in agents.adapters.items()},
        "policy": agents.policy.value,
        "engine": {n: repr(given) for n, given in agents.engine.items() if n != "kv_bytes"},
        "max_steps": options.max_steps,
        "max_retries": options.max_retries,
        "max_malformed": options.max_malformed,
        "max_repeats": options.max_repeats,
        "max_context_tokens": options.max_context_tokens,
        "max_tokens": {turn.value: most for turn, most in options.max_tokens.items()},
        "reflect": options.reflect,
        "system_prompt": options.system_prompt,
    }
