"""One turn: a streamed model call that continues the trajectory."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator
from contextlib import closing

from lragent.agents.backend import (
    BackendError,
    CallChunk,
    CallParams,
    CallUsage,
    ChatBackend,
    ContextOverflowError,
)
from lragent.agents.options import WorkflowOptions
from lragent.agents.prompts import STOPS, Role, Trajectory, Turn
from lragent.agents.results import AgentEvent, CallRecord, EventHandler, EventKind, Status


class RunEnded(Exception):  # noqa: N818 - it ends a run, which need not be an error
    """Ends a run with a status; caught by the workflow."""

    def __init__(self, status: Status, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


class TurnWriter:
    """Lets roles write into one trajectory and keeps a record of each call."""

    def __init__(
        self,
        backend: ChatBackend,
        trajectory: Trajectory,
        options: WorkflowOptions,
        on_event: EventHandler,
        cancel: threading.Event,
    ) -> None:
        self.calls: list[CallRecord] = []
        self._backend = backend
        self._trajectory = trajectory
        self._options = options
        self._on_event = on_event
        self._cancel = cancel

    def write(self, role: Role, turn: Turn) -> Generator[None, None, str]:
        """Let `role` write its `turn`, yielding while there is none yet; returns it stripped.

        The trajectory gets the text as it came. Raises RunEnded when the call cannot be made,
        fails or is cancelled; what came until then is recorded.
        """
        step = self._trajectory.step
        self._check_context()
        self._on_event(AgentEvent(EventKind.TURN_STARTED, step, role, turn))
        parts: list[str] = []
        started = time.perf_counter()
        first: float | None = None
        last = CallChunk()
        ended: RunEnded | None = None
        try:
            with closing(self._stream(role, turn)) as chunks:
                for chunk in chunks:
                    if chunk.text:
                        first = first or time.perf_counter()
                        parts.append(chunk.text)
                        self._on_event(AgentEvent(EventKind.TEXT, step, role, turn, chunk.text))
                    if chunk.finish_reason or chunk.usage:
                        last = chunk
                    elif not chunk.text:
                        yield
        except RunEnded as end:
            ended = end
        text = _cut("".join(parts), STOPS[turn])
        usage = last.usage or CallUsage(0, 0)
        call = CallRecord(
            step=step,
            role=role,
            turn=turn,
            adapter=self._options.adapters.get(role),
            text=text,
            finish_reason=last.finish_reason or (ended.status.value if ended else None),
            prompt_tokens=usage.prompt_tokens,
            reused_tokens=usage.cached_tokens,
            generated_tokens=usage.generated_tokens,
            ttft_s=first - started if first is not None else None,
            seconds=time.perf_counter() - started,
        )
        self.calls.append(call)
        self._trajectory.write(text)
        self._on_event(AgentEvent(EventKind.TURN_ENDED, step, role, turn, text.strip(), call))
        ended = ended or _backend_end(last.finish_reason)
        if ended is not None:
            raise ended
        return text.strip()

    def _stream(self, role: Role, turn: Turn) -> Generator[CallChunk, None, None]:
        options = self._options
        params = CallParams(
            max_tokens=options.max_tokens[turn],
            stop=STOPS[turn],
            temperature=options.temperature,
            top_p=options.top_p,
            seed=None if options.seed is None else options.seed + len(self.calls),
        )
        try:
            chunks = self._backend.complete(
                self._trajectory.messages(), adapter=options.adapters.get(role), params=params
            )
            for chunk in chunks:
                if self._cancel.is_set():
                    if isinstance(chunks, Generator):
                        chunks.close()
                    raise RunEnded(Status.CANCELLED, "the run was cancelled")
                yield chunk
        except RunEnded:
            raise
        except ContextOverflowError as error:
            raise RunEnded(Status.CONTEXT_OVERFLOW, str(error)) from error
        except BackendError as error:
            raise RunEnded(Status.BACKEND_ERROR, str(error)) from error
        except Exception as error:  # whatever a backend raises, the run ends with a result
            reason = f"{type(error).__name__}: {error}"
            raise RunEnded(Status.BACKEND_ERROR, reason) from error

    def _check_context(self) -> None:
        if self._cancel.is_set():
            raise RunEnded(Status.CANCELLED, "the run was cancelled")
        limit = self._options.max_context_tokens
        if limit is None or not self.calls:
            return
        known = self.calls[-1].prompt_tokens + self.calls[-1].generated_tokens
        if known > limit:
            raise RunEnded(
                Status.CONTEXT_OVERFLOW, f"the context has {known} tokens, over the limit {limit}"
            )


def _backend_end(finish_reason: str | None) -> RunEnded | None:
    if finish_reason == "cancelled":
        return RunEnded(Status.CANCELLED, "the backend cancelled the call")
    if finish_reason == "error":
        return RunEnded(Status.BACKEND_ERROR, "the backend reported an error")
    return None


def _cut(text: str, stops: tuple[str, ...]) -> str:
    """The text before the first stop string, for backends that send it along."""
    for stop in stops:
        text = text.split(stop, 1)[0]
    return text
