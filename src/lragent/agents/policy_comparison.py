"""Answer the same questions under several policies, and compare answers, memory and time."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lragent.adapters import read_adapter
from lragent.adapters.trained_for import other_policies_on_purpose
from lragent.agents.demo import DemoQuestion
from lragent.agents.engine_backend import EngineBackend
from lragent.agents.options import WorkflowOptions
from lragent.agents.replay import RecordedCall, RecordingEngine, ReplaySums, replay
from lragent.agents.results import AgentResult, EventHandler, Status
from lragent.agents.scores import exact_match, f1_score
from lragent.agents.tools import DocumentStore
from lragent.agents.workflow import PlanActReflect
from lragent.engine import EngineStats
from lragent.sharing.policies import Policy


@dataclass(frozen=True)
class Answer:
    """What the agents answered to a question, and the calls that it took."""

    question: DemoQuestion
    result: AgentResult
    calls: tuple[RecordedCall, ...]

    @property
    def right(self) -> bool:
        """Whether the answer matches exactly."""
        return exact_match(self.result.answer or "", self.question.answer)

    @property
    def f1(self) -> float:
        """Word F1 of the answer."""
        return f1_score(self.result.answer or "", self.question.answer)

    @property
    def found(self) -> bool:
        """Whether the run had opened every document that the answer needs."""
        pages = [
            line.partition(": ")[2]
            for line in self.result.transcript.splitlines()
            if line.startswith("Observation ")
        ]
        titles = self.question.gold_titles
        return all(any(page.startswith(f"{title}: ") for page in pages) for title in titles)


@dataclass(frozen=True)
class PolicyOutcome:
    """One policy: what the agents answer under it, and what the recorded run costs under it."""

    policy: Policy
    answers: tuple[Answer, ...]
    cost: ReplaySums
    stats: EngineStats

    @property
    def right(self) -> int:
        """Answers that match exactly."""
        return sum(answer.right for answer in self.answers)

    @property
    def f1(self) -> float:
        """Mean F1."""
        return sum(answer.f1 for answer in self.answers) / max(1, len(self.answers))


def best_policy(adapters: Mapping[str, Path]) -> Policy:
    """The policy to share under: `neutral` where every adapter was trained for it, else `base+lr`.

    Raises AdapterError as `read_adapter` does.
    """
    trained = {read_adapter(path).trained_for for path in adapters.values()}
    return Policy.NEUTRAL if trained == {Policy.NEUTRAL.value} else Policy.BASE_LR


class PolicyComparison:
    """Runs agents under one policy after the other, each on an engine of its own.

    Args:
        model: base model, as `Engine` takes it.
        adapters: PEFT folders by role name.
        store: documents to answer from.
        options: limits of the runs; decoding is greedy.
        kv_bytes: budget of each engine's cache.
        on_stage: called with a short text before each longer piece of work.
        among: the policies to compare, in this order.
    """

    def __init__(
        self,
        model: str,
        adapters: Mapping[str, Path],
        store: DocumentStore,
        options: WorkflowOptions,
        kv_bytes: int,
        on_stage: Callable[[str], None],
        among: Sequence[Policy] = tuple(Policy),
    ) -> None:
        if options.temperature:
            raise ValueError("runs are compared token by token, which needs temperature 0")
        self._model = model
        self._adapters = dict(adapters)
        self._store = store
        self._options = options
        self._kv_bytes = kv_bytes
        self._on_stage = on_stage
        self._among = among

    @property
    def policies(self) -> list[Policy]:
        """What is compared: `neutral` only where every adapter says that it was trained for it."""
        best = best_policy(self._adapters)
        return [p for p in dict.fromkeys(self._among) if not p.base_reads or p is best]

    def answer(
        self,
        policy: Policy,
        questions: Sequence[DemoQuestion],
        cancel: threading.Event,
        on_question: Callable[[DemoQuestion], None] | None = None,
        on_event: EventHandler | None = None,
    ) -> list[Answer]:
        """Answer `questions` under `policy`. Setting `cancel` ends it; whole answers are kept."""
        answers: list[Answer] = []
        engine = self._engine(policy)
        with engine:
            workflow = PlanActReflect(EngineBackend(engine), self._store, self._options)
            for question in questions:
                if on_question is None:
                    self._on_stage(f"{policy}: {question.question}")
                else:
                    on_question(question)
                result = workflow.run(question.question, on_event=on_event, cancel=cancel)
                if result.status is Status.CANCELLED:
                    break
                answers.append(Answer(question, result, engine.take_calls()))
        return answers

    def outcomes(
        self, answers: Sequence[Answer], cancel: threading.Event
    ) -> Iterator[PolicyOutcome]:
        """The outcome of each of `policies` on the recorded `answers`. Setting `cancel` ends it.

        Each policy replays the recorded calls. Where it would have chosen another token somewhere,
        its agents answer that question again in their own way; elsewhere they would repeat the
        recorded answer.
        """
        for policy in self.policies:
            costs, stats = self._cost(policy, answers, cancel)
            own = dict(enumerate(answers))
            again = [i for i, cost in enumerate(costs) if cost.other_tokens]
            if again and not cancel.is_set():
                questions = [answers[i].question for i in again]
                found = self.answer(policy, questions, cancel)
                own |= dict(zip(again, found, strict=False))
            if cancel.is_set():
                return
            yield PolicyOutcome(policy, tuple(own.values()), sum(costs, ReplaySums()), stats)

    def _cost(
        self, policy: Policy, answers: Sequence[Answer], cancel: threading.Event
    ) -> tuple[list[ReplaySums], EngineStats]:
        """What each answer's calls cost under `policy`, and the engine's state afterwards."""
        with self._engine(policy) as engine:
            self._on_stage(f"{policy}: replaying the run")
            return [replay(engine, answer.calls, cancel) for answer in answers], engine.stats()

    def _engine(self, policy: Policy) -> RecordingEngine:
        gc.collect()  # a closed engine and its model refer to each other
        self._on_stage(f"{policy}: loading {self._model}")
        with other_policies_on_purpose():
            return RecordingEngine(self._model, self._adapters, policy, kv_bytes=self._kv_bytes)
