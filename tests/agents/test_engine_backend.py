from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from lragent.agents import BackendError, CallParams, CallUsage, ContextOverflowError
from lragent.agents.engine_backend import EngineBackend
from lragent.engine import Chunk, Completion, Engine, SamplingParams
from lragent.engine.errors import EngineError, PromptTooLongError, UnknownAdapterError

MESSAGES = [{"role": "assistant", "content": "Thought 1:"}]


@dataclass
class FakeRequest:
    texts: list[str]
    error: Exception | None = None
    cancelled: int = 0

    def __iter__(self) -> Iterator[Chunk]:
        for text in self.texts:
            yield Chunk(text)
        if self.error:
            raise self.error

    def cancel(self) -> None:
        self.cancelled += 1

    def completion(self) -> Completion:
        return Completion(
            text="".join(self.texts),
            token_ids=(1, 2, 3),
            finish_reason="stop",
            prompt_tokens=40,
            cached_tokens=32,
            ttft_s=0.1,
            total_s=0.2,
            logprobs=(),
            adapter="plan",
            not_shared=None,
        )


@dataclass
class FakeEngine:
    request: FakeRequest
    refuse: Exception | None = None
    calls: list[dict[str, Any]] = field(default_factory=list)

    def chat(self, messages: object, **options: Any) -> FakeRequest:
        self.calls.append({"messages": messages, **options})
        if self.refuse:
            raise self.refuse
        return self.request


def backend(engine: FakeEngine) -> EngineBackend:
    return EngineBackend(cast(Engine, engine), cache_salt="tenant")


def test_request_and_answer():
    engine = FakeEngine(FakeRequest([" I", "", " go."]))
    params = CallParams(max_tokens=9, stop=("\n",), temperature=0.5, top_p=0.9, seed=3)
    chunks = list(backend(engine).complete(MESSAGES, adapter="plan", params=params))
    assert [chunk.text for chunk in chunks] == [" I", " go.", ""]
    assert chunks[-1].usage == CallUsage(40, 3, 32)
    assert chunks[-1].finish_reason == "stop"
    assert engine.calls == [
        {
            "messages": MESSAGES,
            "adapter": "plan",
            "sampling_params": SamplingParams(
                max_tokens=9, temperature=0.5, top_p=0.9, seed=3, stop=("\n",)
            ),
            "stream": True,
            "continue_final_message": True,
            "cache_salt": "tenant",
        }
    ]


def test_leaving_early_cancels_the_request():
    engine = FakeEngine(FakeRequest([" I", " go."]))
    chunks = iter(backend(engine).complete(MESSAGES, adapter=None, params=CallParams(9)))
    next(chunks)
    assert engine.request.cancelled == 0
    cast(Any, chunks).close()
    assert engine.request.cancelled == 1


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (PromptTooLongError("2,100 tokens"), ContextOverflowError),
        (UnknownAdapterError("no adapter 'plna'; did you mean 'plan'?"), BackendError),
    ],
)
def test_refused_requests(error: Exception, kind: type[Exception]):
    engine = FakeEngine(FakeRequest([]), refuse=error)
    with pytest.raises(BackendError, match=str(error)[:6]) as caught:
        list(backend(engine).complete(MESSAGES, adapter="plna", params=CallParams(9)))
    assert type(caught.value) is kind


def test_failing_generation():
    engine = FakeEngine(FakeRequest([" I"], error=EngineError("out of memory")))
    with pytest.raises(BackendError, match="out of memory"):
        list(backend(engine).complete(MESSAGES, adapter="plan", params=CallParams(9)))
