"""The embedded engine as a workflow's backend."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lragent.agents.backend import (
    BackendError,
    CallChunk,
    CallParams,
    CallUsage,
    ContextOverflowError,
)
from lragent.agents.prompts import Message
from lragent.engine import Engine, SamplingParams
from lragent.engine.errors import EngineError, PromptTooLongError


class EngineBackend:
    """Calls an `Engine` of this process.

    Args:
        engine: the engine.
        cache_salt: keeps tenants apart.
        steps_engine: whether a call makes the engine work. Where it does not, it gives empty pieces
            until its answer is there, for a caller who steps the engine for many calls at once.
    """

    def __init__(self, engine: Engine, *, cache_salt: str = "", steps_engine: bool = True) -> None:
        self._engine = engine
        self._cache_salt = cache_salt
        self._steps_engine = steps_engine

    def complete(
        self,
        messages: Sequence[Message],
        *,
        adapter: str | None,
        params: CallParams,
        continue_final_message: bool = True,
    ) -> Iterator[CallChunk]:
        """See `ChatBackend.complete`."""
        sampling = SamplingParams(
            max_tokens=params.max_tokens,
            temperature=params.temperature,
            top_p=params.top_p,
            seed=params.seed,
            stop=params.stop,
        )
        try:
            request = self._engine.chat(
                messages,
                adapter=adapter,
                sampling_params=sampling,
                stream=True,
                continue_final_message=continue_final_message,
                cache_salt=self._cache_salt,
            )
            try:
                while not self._steps_engine and not request.done:
                    yield CallChunk()
                for chunk in request:
                    if chunk.text:
                        yield CallChunk(chunk.text)
            finally:
                request.cancel()  # no effect once it is done
        except PromptTooLongError as error:
            raise ContextOverflowError(str(error)) from error
        except (EngineError, ValueError) as error:
            raise BackendError(str(error)) from error
        done = request.completion()
        usage = CallUsage(done.prompt_tokens, len(done.token_ids), done.cached_tokens)
        yield CallChunk(finish_reason=done.finish_reason, usage=usage)
