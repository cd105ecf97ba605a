"""`generate` and `chat`, for one prompt or many, waiting or awaited, all over `submit`."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict, Unpack, cast, overload

from torch import Tensor

from lragent.engine.errors import GenerationFailedError
from lragent.engine.outputs import Completion
from lragent.engine.params import SamplingParams
from lragent.engine.prompts import Message, Prompt
from lragent.engine.renamed import renamed
from lragent.engine.request import Request

Params = SamplingParams | None
Conversation = Sequence[Message]


class RequestOptions(TypedDict, total=False):
    """What `submit` takes beside prompt and sampling parameters."""

    adapter: str | None
    cache_salt: str
    deadline: float | None
    priority: int
    forced: Sequence[int] | None


class ChatOptions(RequestOptions, total=False):
    """What `chat` takes beside the conversation and sampling parameters."""

    continue_final_message: bool
    allow_special_tokens: bool
    tools: Sequence[Mapping[str, Any]]


class Calls(ABC):
    """The calls of an engine that wait for answers."""

    @abstractmethod
    def submit(
        self, prompt: Prompt, sampling_params: Params = None, **options: Unpack[RequestOptions]
    ) -> Request:
        """See `Engine.submit`."""

    @abstractmethod
    def render(
        self,
        messages: Conversation,
        continue_final_message: bool = False,
        allow_special_tokens: bool = False,
        tools: Sequence[Mapping[str, Any]] = (),
        cache_salt: str = "",
    ) -> list[int]:
        """See `Engine.render`."""

    @overload
    def generate(
        self, prompt: Prompt, sampling_params: Params = ..., *,
        stream: Literal[False] = ..., **options: Unpack[RequestOptions],
    ) -> Completion: ...  # fmt: skip

    @overload
    def generate(
        self, prompt: Prompt, sampling_params: Params = ..., *,
        stream: Literal[True], **options: Unpack[RequestOptions],
    ) -> Request: ...  # fmt: skip

    @overload
    def generate(
        self, prompt: Sequence[Prompt], sampling_params: Params | Sequence[SamplingParams] = ...,
        **options: Unpack[RequestOptions],
    ) -> list[Completion]: ...  # fmt: skip

    @renamed(params="sampling_params")
    def generate(
        self,
        prompt: Prompt | Sequence[Prompt],
        sampling_params: Params | Sequence[SamplingParams] = None,
        *,
        stream: bool = False,
        **options: Unpack[RequestOptions],
    ) -> Completion | Request | list[Completion]:
        """Continue one prompt or many.

        Args:
            prompt: text, or token ids as a sequence, tensor or array of one dimension; or many of
                them (a tensor of two dimensions too), which run together.
            sampling_params: how to decode; for many prompts also one for each.
            stream: return the handle of the one request, to iterate over.
            options: as for `submit`.

        Returns:
            The answer; for many prompts one for each, in order. There, a request that failed has
            the finish reason `error` and says in `error` why, and the others are complete.

        Raises:
            GenerationFailedError: the one request failed.
            What `submit` raises; of many prompts then none runs.
        """
        if not _is_many(prompt):
            request = self.submit(cast(Prompt, prompt), _one(sampling_params), **options)
            return request if stream else request.result()
        if stream:
            raise TypeError("stream=True is for one prompt; submit() each of many")
        prompts = cast(Sequence[Prompt], prompt)
        return _results(self._submit_all(prompts, sampling_params, options))

    @overload
    def chat(
        self, messages: Conversation, sampling_params: Params = ..., *,
        stream: Literal[False] = ..., **options: Unpack[ChatOptions],
    ) -> Completion: ...  # fmt: skip

    @overload
    def chat(
        self, messages: Conversation, sampling_params: Params = ..., *,
        stream: Literal[True], **options: Unpack[ChatOptions],
    ) -> Request: ...  # fmt: skip

    @overload
    def chat(
        self, messages: Sequence[Conversation],
        sampling_params: Params | Sequence[SamplingParams] = ..., **options: Unpack[ChatOptions],
    ) -> list[Completion]: ...  # fmt: skip

    @renamed(params="sampling_params")
    def chat(
        self,
        messages: Conversation | Sequence[Conversation],
        sampling_params: Params | Sequence[SamplingParams] = None,
        *,
        stream: bool = False,
        **options: Unpack[ChatOptions],
    ) -> Completion | Request | list[Completion]:
        """Answer one conversation or many in the model's chat template.

        Args:
            messages: `{"role": …, "content": …}` in order; or a list of such lists.
            sampling_params, stream: as for `generate`.
            options: as for `submit` and `render`.
        """
        prompt, rest = self._rendered(messages, options)
        return self.generate(prompt, sampling_params, stream=stream, **rest)  # pyright: ignore[reportCallIssue, reportArgumentType]

    async def asubmit(
        self, prompt: Prompt, sampling_params: Params = None, **options: Unpack[RequestOptions]
    ) -> Request:
        """`submit` that does not hold up the event loop; then `async for chunk in request`."""
        return await asyncio.to_thread(self.submit, prompt, sampling_params, **options)

    @overload
    async def agenerate(
        self, prompt: Prompt, sampling_params: Params = ..., **options: Unpack[RequestOptions]
    ) -> Completion: ...

    @overload
    async def agenerate(
        self, prompt: Sequence[Prompt], sampling_params: Params | Sequence[SamplingParams] = ...,
        **options: Unpack[RequestOptions],
    ) -> list[Completion]: ...  # fmt: skip

    async def agenerate(
        self,
        prompt: Prompt | Sequence[Prompt],
        sampling_params: Params | Sequence[SamplingParams] = None,
        **options: Unpack[RequestOptions],
    ) -> Completion | list[Completion]:
        """`generate`, awaited. Cancelling the task cancels the requests."""
        if not _is_many(prompt):
            one = cast(Prompt, prompt)
            return await (await self.asubmit(one, _one(sampling_params), **options)).aresult()
        prompts = cast(Sequence[Prompt], prompt)
        requests = await asyncio.to_thread(self._submit_all, prompts, sampling_params, options)
        await asyncio.gather(*(r.aresult() for r in requests), return_exceptions=True)
        return _results(requests)

    @overload
    async def achat(
        self, messages: Conversation, sampling_params: Params = ..., **options: Unpack[ChatOptions]
    ) -> Completion: ...

    @overload
    async def achat(
        self, messages: Sequence[Conversation],
        sampling_params: Params | Sequence[SamplingParams] = ..., **options: Unpack[ChatOptions],
    ) -> list[Completion]: ...  # fmt: skip

    async def achat(
        self,
        messages: Conversation | Sequence[Conversation],
        sampling_params: Params | Sequence[SamplingParams] = None,
        **options: Unpack[ChatOptions],
    ) -> Completion | list[Completion]:
        """`chat`, awaited. Cancelling the task cancels the requests."""
        prompt, rest = await asyncio.to_thread(self._rendered, messages, options)
        return await self.agenerate(prompt, sampling_params, **rest)  # pyright: ignore[reportCallIssue, reportArgumentType]

    def _rendered(
        self, messages: Conversation | Sequence[Conversation], options: ChatOptions
    ) -> tuple[list[int] | list[list[int]], RequestOptions]:
        """Token ids of one conversation or of many, and the options of their requests."""
        rest = options.copy()
        how = (
            rest.pop("continue_final_message", False),
            rest.pop("allow_special_tokens", False),
            rest.pop("tools", ()),
            rest.get("cache_salt", ""),
        )
        many = isinstance(messages, list | tuple) and bool(messages)
        if many and all(isinstance(m, list | tuple) for m in messages):
            return [self.render(cast(Conversation, m), *how) for m in messages], rest
        return self.render(cast(Conversation, messages), *how), rest

    def _submit_all(
        self,
        prompts: Sequence[Prompt],
        sampling_params: Params | Sequence[SamplingParams],
        options: RequestOptions,
    ) -> list[Request]:
        if isinstance(sampling_params, list | tuple):
            if len(sampling_params) != len(prompts):
                raise ValueError(
                    f"there are {len(prompts)} prompts and {len(sampling_params)} sampling_params; "
                    "give one for each, or one for all"
                )
            each = list(sampling_params)
        else:
            each = [_one(sampling_params)] * len(prompts)
        # an exception drops the handles made so far, which cancels their requests
        return [self.submit(p, q, **options) for p, q in zip(prompts, each, strict=True)]


def _is_many(prompt: object) -> bool:
    """Whether it is a sequence of prompts, and not one of text or token ids."""
    if isinstance(prompt, str | bytes | Mapping):
        return False
    if hasattr(prompt, "ndim"):  # a tensor or an array
        return cast(Tensor, prompt).ndim == 2
    if not isinstance(prompt, Sequence) or not prompt:
        return False
    return all(isinstance(p, str | list | tuple) or getattr(p, "ndim", 0) == 1 for p in prompt)


def _one(sampling_params: Params | Sequence[SamplingParams]) -> Params:
    if isinstance(sampling_params, list | tuple):
        raise TypeError("a list of sampling_params needs a list of prompts")
    return cast(Params, sampling_params)


def _results(requests: Sequence[Request]) -> list[Completion]:
    for request in requests:
        try:
            request.result()
        except GenerationFailedError:
            continue  # its completion says so
    return [request.completion() for request in requests]
