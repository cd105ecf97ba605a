"""A request inside the engine: its tokens, pages, text and the ways to end."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from lragent.adapters.model import Adapter
from lragent.cache.client import CacheClient
from lragent.cache.lease import Lease
from lragent.cache.sharing_reasons import public_reason
from lragent.engine.grammar import TokenFilter
from lragent.engine.outbox import Outbox
from lragent.engine.outputs import Chunk, Completion, FinishReason, TokenLogprob
from lragent.engine.params import SamplingParams
from lragent.engine.sampler import Chosen, RequestSampler
from lragent.engine.text_stream import TextStream
from lragent.sharing import Binding


class RequestState:
    """What scheduler and step loop work on; callers hold a `Request`.

    Attributes:
        tokens: prompt and output so far.
        context_tokens: leading ones that the base model computes; None for all.
        computed: leading tokens that are in its pages.
        lease: its pages while it is scheduled.
        cached_tokens: prompt tokens that needed no computation; None before it was first admitted.
        outbox: where its caller finds the pieces of the answer, and of the other answers.
        index: which of the answers it is.
        ahead: a running request that it waits for while it is not scheduled, and the number of
            tokens that this one has to have computed; None for none.
        prompt_logprobs: by position, as far as they were asked for and computed.
        deadline: the time (`time.perf_counter`) at which it ends, done or not; None for never.
        stop_reason: the stop text or token of `stop_token_ids` that ended it.
        rank: who goes first, the lowest; priority, then order of arrival.
    """

    def __init__(
        self,
        request_id: int,
        prompt: Sequence[int],
        params: SamplingParams,
        binding: Binding[Adapter],
        client: CacheClient,
        *,
        outbox: Outbox,
        index: int,
        forced: Sequence[int] | None,
        form: TokenFilter | None,
        deadline: float | None,
        priority: int,
        tokenizer: PreTrainedTokenizerBase | None,
        eos: frozenset[int],
        max_positions: int,
        device: torch.device,
    ):
        if params.stop and tokenizer is None:
            raise ValueError("stop texts need a tokenizer, and this engine has none")
        self.id = request_id
        self.params = params
        self.binding = binding
        self.client = client
        self.tokens = list(prompt)
        self.prompt_tokens = len(prompt)
        self.context_tokens = binding.context_tokens(prompt)
        self.computed = 0
        self.lease: Lease | None = None
        ends = frozenset() if params.ignore_eos else eos
        self._eos = ends
        self._ends = ends.union(params.stop_token_ids)
        whole = forced and [*prompt, *forced]
        self.sampler = RequestSampler(params, device, whole, len(prompt), self._ends, form)
        self.outbox = outbox
        self.index = index
        self.rank = (priority, request_id)
        self.cached_tokens: int | None = None
        self.not_shared: str | None = None
        self.finish_reason: FinishReason | None = None
        self.stop_reason: int | str | None = None
        self.error: str | None = None
        self.submitted = time.perf_counter()
        self.deadline = None if deadline is None else self.submitted + deadline
        self.first_token: float | None = None
        self._finished: float | None = None
        self._text_parts: list[str] = []
        self.prompt_logprobs: dict[int, TokenLogprob] = {}
        self.ahead: tuple[RequestState, int] | None = None
        self._logprobs: list[TokenLogprob] = []
        self._distributions: list[Tensor] = []
        self._room = max_positions
        self._text = TextStream(tokenizer, params.stop)

    @property
    def done(self) -> bool:
        """Whether no more tokens will come."""
        return self.finish_reason is not None

    @property
    def shareable_tokens(self) -> int | None:
        """Leading tokens whose pages others may read; None for all."""
        if self.params.prompt_logprobs is not None:
            return 0  # what is read from the cache has no logits
        return self.context_tokens if self.binding.base_reads else None

    @property
    def generated(self) -> list[int]:
        """Tokens generated so far."""
        return self.tokens[self.prompt_tokens :]

    def push(self, chosen: Chosen) -> FinishReason | None:
        """Take a token, pass its text on, and return why the request is over, if it is."""
        self.tokens.append(chosen.token_id)
        if chosen.logprob is not None:
            self._logprobs.append(chosen.logprob)
        if chosen.distribution is not None:
            self._distributions.append(chosen.distribution)
        may_stop = len(self.tokens) - self.prompt_tokens > self.params.min_tokens
        if may_stop and chosen.token_id in self._ends:
            if chosen.token_id not in self._eos:
                self.stop_reason = chosen.token_id
            self._emit("", chosen)
            return "stop"
        text, stopped = self._text.push(chosen.token_id, may_stop)
        self._emit(text, chosen)
        if stopped:
            self.stop_reason = self._text.stopped_by
            return "stop"
        full = len(self.tokens) >= self._room
        if full or len(self.tokens) - self.prompt_tokens >= self.params.max_tokens:
            return "length"
        return None

    def finish(self, reason: FinishReason) -> None:
        """Pass the last text on and close the request."""
        rest = self._text.flush()
        self._finished = time.perf_counter()
        if rest:
            self._text_parts.append(rest)
        last = Chunk(rest, finish_reason=reason, index=self.index, stop_reason=self.stop_reason)
        self.outbox.chunks.append(last)
        self.finish_reason = reason  # from here on another thread may take everything
        self.outbox.wake(ended=True)

    def completion(self) -> Completion:
        """The answer as far as it came."""
        end = self._finished if self._finished is not None else time.perf_counter()
        return Completion(
            text="".join(self._text_parts),
            token_ids=tuple(self.generated),
            finish_reason=self.finish_reason or "cancelled",
            prompt_tokens=self.prompt_tokens,
            cached_tokens=self.cached_tokens or 0,
            ttft_s=None if self.first_token is None else self.first_token - self.submitted,
            total_s=end - self.submitted,
            logprobs=tuple(self._logprobs),
            prompt_logprobs=self._of_prompt(),
            adapter=self.binding.name,
            not_shared=self.not_shared and public_reason(self.not_shared),
            error=self.error,
            index=self.index,
            stop_reason=self.stop_reason,
            distributions=torch.stack(self._distributions) if self._distributions else None,
        )

    def _of_prompt(self) -> tuple[TokenLogprob | None, ...]:
        if self.params.prompt_logprobs is None:
            return ()
        return tuple(map(self.prompt_logprobs.get, range(self.prompt_tokens)))

    def _emit(self, text: str, chosen: Chosen) -> None:
        if text:
            self._text_parts.append(text)
        logprobs = () if chosen.logprob is None else (chosen.logprob,)
        self.outbox.chunks.append(Chunk(text, (chosen.token_id,), logprobs, index=self.index))
        self.outbox.wake(ended=False)
