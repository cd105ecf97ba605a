"""The plan/act/reflect loop (paper, "Setup"): it ends in a result, whatever the model writes."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Generator

from lragent.agents.backend import ChatBackend
from lragent.agents.options import WorkflowOptions
from lragent.agents.prompts import FINISH, Role, Trajectory, Turn
from lragent.agents.results import (
    AgentEvent,
    AgentResult,
    EventHandler,
    EventKind,
    Status,
    Verdict,
)
from lragent.agents.tools import DocumentStore, Observation, Toolbox, document_toolbox
from lragent.agents.turns import RunEnded, TurnWriter

Steps = Generator[None, None, AgentResult]
"""A run that goes on whenever it is asked for its next piece."""


class PlanActReflect:
    """Answers questions with three roles over one backend.

    Args:
        backend: the language model.
        tools: a document store, or a function that makes the toolbox of one run.
        options: limits and decoding.
    """

    def __init__(
        self,
        backend: ChatBackend,
        tools: DocumentStore | Callable[[], Toolbox],
        options: WorkflowOptions | None = None,
    ) -> None:
        self._backend = backend
        self._make_tools = (
            (lambda: document_toolbox(tools)) if isinstance(tools, DocumentStore) else tools
        )
        self._options = options or WorkflowOptions()

    def run(
        self,
        question: str,
        *,
        on_event: EventHandler | None = None,
        cancel: threading.Event | None = None,
    ) -> AgentResult:
        """Answer `question`. Raises ValueError for an empty one, else only what `on_event` raises.

        `on_event` is called for each event as it happens; setting `cancel` (from any thread or from
        `on_event`) ends the run at the next piece of text.
        """
        steps = self.steps(question, on_event=on_event, cancel=cancel)
        while True:
            try:
                next(steps)
            except StopIteration as end:
                return end.value

    def steps(
        self,
        question: str,
        *,
        on_event: EventHandler | None = None,
        cancel: threading.Event | None = None,
    ) -> Steps:
        """`run` in pieces, for many runs side by side (`lragent.agents.together`).

        Yields whenever the backend gives an empty piece, which says that there is nothing yet, and
        returns the result. Closing it ends the call that is under way.
        """
        if not question.strip():
            raise ValueError("the question is empty")
        handler = on_event or _ignore
        run = _Run(
            question,
            self._backend,
            self._make_tools(),
            self._options,
            handler,
            cancel or threading.Event(),
        )
        result = yield from run.play()
        handler(AgentEvent(EventKind.ENDED, result.steps, text=result.answer or "", result=result))
        return result


class _Run:
    """One question on its way."""

    def __init__(
        self,
        question: str,
        backend: ChatBackend,
        tools: Toolbox,
        options: WorkflowOptions,
        on_event: EventHandler,
        cancel: threading.Event,
    ) -> None:
        self._options = options
        self._tools = tools
        self._on_event = on_event
        self._trajectory = Trajectory(question, options.system_prompt)
        self._writer = TurnWriter(backend, self._trajectory, options, on_event, cancel)
        self._answer: str | None = None
        self._verdict: Verdict | None = None
        self._malformed = 0
        self._seen: Counter[tuple[str, str, str]] = Counter()
        self._started = time.perf_counter()

    def play(self) -> Steps:
        try:
            yield from self._rounds()
            status, detail = Status.ANSWERED, None
        except RunEnded as end:
            status, detail = end.status, end.detail
            if self._answer is not None and status not in (Status.CANCELLED, Status.BACKEND_ERROR):
                # A second try that led nowhere does not take the first answer away.
                status, detail = Status.ANSWERED, f"no better answer was found: {end.detail}"
        return AgentResult(
            question=self._trajectory.question,
            status=status,
            answer=self._answer,
            verdict=self._verdict,
            detail=detail,
            steps=self._trajectory.step,
            calls=tuple(self._writer.calls),
            transcript=self._trajectory.text,
            seconds=time.perf_counter() - self._started,
        )

    def _rounds(self) -> Generator[None, None, None]:
        for retries_left in range(self._options.max_retries, -1, -1):
            answer = yield from self._until_finish()
            self._answer, self._verdict = answer, None
            if not self._options.reflect:
                return
            self._verdict = yield from self._judge()
            if self._verdict is not Verdict.WRONG or retries_left == 0:
                return

    def _until_finish(self) -> Generator[None, None, str]:
        """Steps up to the next Finish; its answer."""
        while True:
            if self._trajectory.step >= self._options.max_steps:
                limit = self._options.max_steps
                raise RunEnded(Status.STEP_LIMIT, f"there was no answer within {limit} steps")
            tool, argument = yield from self._step()
            if tool.lower() == FINISH.lower() and argument:
                return argument
            observation = self._observe(tool, argument)
            self._trajectory.observe(observation.text)
            self._on_event(
                AgentEvent(EventKind.OBSERVATION, self._trajectory.step, text=observation.text)
            )
            self._check_progress(tool, argument, observation)

    def _step(self) -> Generator[None, None, tuple[str, str]]:
        """Thought and action; the tool's name and its argument."""
        t, write = self._trajectory, self._writer.write
        t.open_thought()
        yield from write(Role.PLAN, Turn.THOUGHT)
        t.open_action()
        tool = yield from write(Role.PLAN, Turn.TOOL)
        t.open_argument()
        argument = yield from write(Role.ACT, Turn.ARGUMENT)
        t.close_argument()
        return tool, argument

    def _observe(self, tool: str, argument: str) -> Observation:
        if tool.lower() == FINISH.lower():
            return Observation(f"{FINISH} needs the answer in brackets.", valid=False)
        return self._tools.call(tool, argument)

    def _check_progress(self, tool: str, argument: str, observation: Observation) -> None:
        """End runs that go in circles or no longer write valid actions."""
        self._malformed = 0 if observation.valid else self._malformed + 1
        if self._malformed >= self._options.max_malformed:
            raise RunEnded(
                Status.MALFORMED,
                f"{self._malformed} malformed actions in a row; the last: {observation.text}",
            )
        key = (tool.lower(), argument.lower(), observation.text)
        self._seen[key] += 1
        if self._seen[key] > self._options.max_repeats:
            raise RunEnded(
                Status.LOOP, f"{tool}[{argument}] brought the same {self._seen[key]} times"
            )

    def _judge(self) -> Generator[None, None, Verdict | None]:
        """Reflect's verdict; None when it is neither of the two words."""
        t = self._trajectory
        t.open_thought()
        yield from self._writer.write(Role.REFLECT, Turn.THOUGHT)
        t.open_verdict()
        verdict = yield from self._writer.write(Role.REFLECT, Turn.VERDICT)
        t.close_argument()
        return next((v for v in Verdict if verdict.lower().startswith(v.value)), None)


def _ignore(event: AgentEvent) -> None:
    """Handles events when nobody listens."""
