"""What a run yields: events while it goes on, a record of each call, and the result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from lragent.agents.prompts import Role, Turn


class Status(StrEnum):
    """How a run ended."""

    ANSWERED = "answered"
    STEP_LIMIT = "step_limit"
    LOOP = "loop"
    CONTEXT_OVERFLOW = "context_overflow"
    MALFORMED = "malformed"
    CANCELLED = "cancelled"
    BACKEND_ERROR = "backend_error"


class Verdict(StrEnum):
    """Reflect's judgement."""

    RIGHT = "right"
    WRONG = "wrong"


@dataclass(frozen=True)
class CallRecord:
    """One model call. Times are seconds; `ttft_s` is None when no text came."""

    step: int
    role: Role
    turn: Turn
    adapter: str | None
    text: str
    finish_reason: str | None
    prompt_tokens: int
    reused_tokens: int | None
    generated_tokens: int
    ttft_s: float | None
    seconds: float


@dataclass(frozen=True)
class AgentResult:
    """The end of a run.

    `answer` is the last one given; it can be present beside the statuses cancelled and
    backend_error, when they came after it. `detail` explains every end but a plain answer.
    `transcript` is the whole trajectory.
    """

    question: str
    status: Status
    answer: str | None
    verdict: Verdict | None
    detail: str | None
    steps: int
    calls: tuple[CallRecord, ...]
    transcript: str
    seconds: float

    @property
    def prompt_tokens(self) -> int:
        """Prompt tokens of all calls."""
        return sum(call.prompt_tokens for call in self.calls)

    @property
    def reused_tokens(self) -> int:
        """Prompt tokens that came from the cache, as far as the backend told."""
        return sum(call.reused_tokens or 0 for call in self.calls)

    @property
    def generated_tokens(self) -> int:
        """Generated tokens of all calls."""
        return sum(call.generated_tokens for call in self.calls)

    @property
    def ttft_s(self) -> float:
        """Sum of the times to the first text (paper, "Setup")."""
        return sum(call.ttft_s or 0.0 for call in self.calls)


class EventKind(StrEnum):
    """What happened."""

    TURN_STARTED = "turn_started"
    TEXT = "text"
    TURN_ENDED = "turn_ended"
    OBSERVATION = "observation"
    ENDED = "ended"


@dataclass(frozen=True)
class AgentEvent:
    """Something to show while a run goes on.

    `text` is the new text (TEXT), the whole turn (TURN_ENDED), the observation, or the answer
    (ENDED). `call` comes with TURN_ENDED, `result` with ENDED.
    """

    kind: EventKind
    step: int
    role: Role | None = None
    turn: Turn | None = None
    text: str = ""
    call: CallRecord | None = None
    result: AgentResult | None = None


EventHandler = Callable[[AgentEvent], None]
