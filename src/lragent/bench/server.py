"""The server under measurement: timed completions of one model each."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import openai

from lragent.agents.backend import BackendError


@dataclass(frozen=True)
class Call:
    """One completion.

    Attributes:
        ttft_s: seconds to the first token.
        seconds: to the last one.
        prompt_tokens, generated_tokens: as the server counts them.
        cached_tokens: prompt tokens that needed no computation; None where the server does not say.
        text: the answer.
    """

    ttft_s: float
    seconds: float
    prompt_tokens: int
    generated_tokens: int
    cached_tokens: int | None
    text: str


class BenchServer:
    """Calls `base_url` (up to and including ``/v1``). Threads may share one."""

    def __init__(self, base_url: str, api_key: str = "none", timeout: float = 300.0) -> None:
        self.base_url = base_url
        self._client = openai.OpenAI(
            base_url=base_url, api_key=api_key, timeout=timeout, max_retries=0
        )

    def models(self) -> dict[str, str | None]:
        """Names that the server lists, each with the model that it is an adapter of, if it says so.

        Raises BackendError when it does not answer.
        """
        try:
            listed = list(self._client.models.list())
        except openai.OpenAIError as error:
            raise BackendError(f"{self.base_url} does not list its models: {error}") from error
        return {model.id: (model.model_extra or {}).get("parent") for model in listed}

    def not_shared(self) -> dict[str, int] | None:
        """Requests that reused nothing by reason, over all engines; None without lragent there."""
        try:
            report: Any = self._client.get("/lragent/stats", cast_to=object)
            sums: dict[str, int] = {}
            for engine in report["engines"]:
                for reason, count in engine["not_shared"].items():
                    sums[reason] = sums.get(reason, 0) + count
        except (openai.OpenAIError, KeyError, TypeError):
            return None
        return sums

    def complete(self, model: str, prompt: str, max_tokens: int) -> Call:
        """A greedy completion of `prompt`, streamed.

        Raises BackendError when the server refuses it or does not say how many tokens it had.
        """
        first = usage = None
        parts: list[str] = []
        started = time.perf_counter()
        try:
            stream = self._client.completions.create(
                model=model, prompt=prompt, max_tokens=max_tokens, temperature=0, stream=True,
                stream_options={"include_usage": True},
            )  # fmt: skip
            with closing(stream):
                for event in stream:
                    if event.choices:
                        first = first or time.perf_counter()
                        parts += [choice.text for choice in event.choices]
                    usage = event.usage or usage
        except openai.APIStatusError as error:
            text = f"the server answered {error.status_code} for {model!r}: {error.message}"
            raise BackendError(text) from error
        except openai.OpenAIError as error:
            raise BackendError(f"no answer from {self.base_url}: {error}") from error
        if first is None or usage is None:
            raise BackendError(f"{self.base_url} streams no tokens, or no usage at the end")
        details = usage.prompt_tokens_details
        return Call(
            ttft_s=first - started,
            seconds=time.perf_counter() - started,
            prompt_tokens=usage.prompt_tokens,
            generated_tokens=usage.completion_tokens,
            cached_tokens=details.cached_tokens if details else None,
            text="".join(parts),
        )
