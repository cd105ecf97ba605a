"""Record the calls of a run, and play them again token by token on another engine.

Under another sharing policy a run may take other ways, so its numbers say little about the policy.
A replay has the same prompts and the same outputs everywhere: only what is computed and what is
reused differs.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lragent.engine import Engine, Request, SamplingParams


@dataclass(frozen=True)
class RecordedCall:
    """One call of a recorded run: token ids of its prompt and of its output."""

    adapter: str | None
    prompt: tuple[int, ...]
    output: tuple[int, ...]


class RecordingEngine(Engine):
    """An engine that keeps the handles of its requests."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._requests: list[Request] = []

    def submit(self, *args: Any, **options: Any) -> Request:
        """See `Engine.submit`."""
        request = super().submit(*args, **options)
        self._requests.append(request)
        return request

    def take_calls(self) -> tuple[RecordedCall, ...]:
        """The calls that went to their end since the last time, in order."""
        requests, self._requests = self._requests, []
        return tuple(
            RecordedCall(
                request.adapter,
                request.prompt_ids,
                request.token_ids,
            )
            for request in requests
            if request.finish_reason in ("stop", "length")
        )


@dataclass(frozen=True)
class ReplaySums:
    """Sums over replayed calls.

    Attributes:
        prompt_tokens: tokens of all prompts.
        reused_tokens: those that needed no computation; all others passed through the model.
        generated_tokens: tokens of all outputs.
        other_tokens: how many of them this engine would have chosen otherwise.
        ttft_s: times to first token, summed.
        seconds: all calls, from start to end.
    """

    prompt_tokens: int = 0
    reused_tokens: int = 0
    generated_tokens: int = 0
    other_tokens: int = 0
    ttft_s: float = 0.0
    seconds: float = 0.0

    @property
    def computed_tokens(self) -> int:
        """Prompt tokens that passed through the model."""
        return self.prompt_tokens - self.reused_tokens

    @property
    def tokens_per_s(self) -> float:
        """Generated tokens by second, time for the prompts included."""
        return self.generated_tokens / self.seconds if self.seconds else 0.0

    def __add__(self, other: ReplaySums) -> ReplaySums:
        return ReplaySums(
            self.prompt_tokens + other.prompt_tokens,
            self.reused_tokens + other.reused_tokens,
            self.generated_tokens + other.generated_tokens,
            self.other_tokens + other.other_tokens,
            self.ttft_s + other.ttft_s,
            self.seconds + other.seconds,
        )


def replay(
    engine: Engine, calls: Sequence[RecordedCall], cancel: threading.Event | None = None
) -> ReplaySums:
    """Play `calls` in order on `engine`, greedily, each with its recorded prompt and output.

    Setting `cancel` ends it before the next call. Raises what `Engine.submit` raises, and
    GenerationFailedError.
    """
    sums = ReplaySums()
    for call in calls:
        if cancel is not None and cancel.is_set():
            break
        started = time.perf_counter()
        request = engine.submit(
            call.prompt,
            adapter=call.adapter,
            sampling_params=SamplingParams(logprobs=1),
            forced=call.output,
        )
        done = request.result()
        seconds = time.perf_counter() - started
        sums += ReplaySums(
            done.prompt_tokens,
            done.cached_tokens,
            len(done.token_ids),
            sum(chosen.token_id not in chosen.top for chosen in done.logprobs),
            done.ttft_s or 0.0,
            seconds,
        )
    return sums
