"""The handle of a submitted request."""

from __future__ import annotations

from collections.abc import Iterator

from lragent.engine.core import EngineCore
from lragent.engine.errors import GenerationFailedError
from lragent.engine.outputs import Chunk, Completion, FinishReason
from lragent.engine.params import SamplingParams
from lragent.engine.request_state import RequestState


class Request:
    """Iterate over its chunks, or wait for its result; everything else is to read.

    The engine works while some caller waits for a chunk or a result; there is no thread behind it.
    """

    def __init__(self, state: RequestState, core: EngineCore):
        self._state = state
        self._core = core

    def __repr__(self) -> str:
        state = self._state
        return (
            f"Request({state.id}, adapter={state.binding.name!r}, "
            f"{state.prompt_tokens} prompt tokens, {len(state.generated)} generated, "
            f"{state.finish_reason or 'running'})"
        )

    @property
    def id(self) -> int:
        """Its number in the engine."""
        return self._state.id

    @property
    def adapter(self) -> str | None:
        """Name of its adapter; None for the base model."""
        return self._state.binding.name

    @property
    def params(self) -> SamplingParams:
        """How it is decoded."""
        return self._state.params

    @property
    def prompt_ids(self) -> tuple[int, ...]:
        """Token ids of the prompt."""
        return tuple(self._state.tokens[: self._state.prompt_tokens])

    @property
    def token_ids(self) -> tuple[int, ...]:
        """Tokens generated so far."""
        return tuple(self._state.generated)

    @property
    def cached_tokens(self) -> int | None:
        """Prompt tokens that needed no computation; None while it waits for its first step."""
        return self._state.cached_tokens

    @property
    def finish_reason(self) -> FinishReason | None:
        """Why it ended; None while it runs."""
        return self._state.finish_reason

    @property
    def done(self) -> bool:
        """Whether no more tokens will come."""
        return self._state.done

    def __iter__(self) -> Iterator[Chunk]:
        """Yield chunks as they come; leaving the loop early cancels the request.

        Raises:
            GenerationFailedError: the forward pass failed.
        """
        state = self._state
        try:
            while True:
                while state.chunks:
                    yield state.chunks.popleft()
                if state.done:
                    break
                self._core.advance(state)
        finally:
            self._core.cancel(state)
        if state.finish_reason == "error":
            raise GenerationFailedError(state.error)

    def cancel(self) -> None:
        """Stop now and give the pages back; what was generated stays in the result."""
        self._core.cancel(self._state)

    def result(self) -> Completion:
        """Wait for the end and return the whole answer.

        Raises:
            GenerationFailedError: the forward pass failed.
        """
        state = self._state
        while not state.done:
            state.chunks.clear()  # the parts are kept; a waiting chunk would stop `advance`
            self._core.advance(state)
        if state.finish_reason == "error":
            raise GenerationFailedError(state.error)
        return state.completion()

    def completion(self) -> Completion:
        """The answer as far as it came."""
        return self._state.completion()
