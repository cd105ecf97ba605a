"""A running request's decoding state: sampler, text and the ways to end."""

from __future__ import annotations

import time

import torch
from transformers import PreTrainedTokenizerBase

from lragent.engine.request import Chunk, FinishReason, Request
from lragent.engine.sampler import Chosen, RequestSampler
from lragent.engine.text_stream import TextStream


class Progress:
    """Takes the chosen tokens of one request and tells when it is over."""

    def __init__(
        self,
        request: Request,
        tokenizer: PreTrainedTokenizerBase | None,
        eos: frozenset[int],
        max_positions: int,
        device: torch.device,
    ):
        if request.params.stop and tokenizer is None:
            raise ValueError("stop texts need a tokenizer, and this engine has none")
        self.request = request
        self.sampler = RequestSampler(request.params, device)
        self.admitted = False
        self._eos = frozenset() if request.params.ignore_eos else eos
        self._room = max_positions
        self._text = TextStream(tokenizer, request.params.stop)

    def push(self, chosen: Chosen) -> FinishReason | None:
        """Take a token, pass its text on, and return why the request is over, if it is."""
        request = self.request
        request.tokens.append(chosen.token_id)
        if chosen.logprob is not None:
            request.logprobs.append(chosen.logprob)
        if chosen.token_id in self._eos:
            self._emit("", chosen)
            return "stop"
        text, stopped = self._text.push(chosen.token_id)
        self._emit(text, chosen)
        if stopped:
            return "stop"
        full = len(request.tokens) >= self._room
        if full or len(request.generated) >= request.params.max_tokens:
            return "length"
        return None

    def finish(self, reason: FinishReason) -> None:
        """Pass the last text on and close the request."""
        request = self.request
        rest = self._text.flush()
        request.finish_reason = reason
        request.finished = time.perf_counter()
        if rest:
            request.text_parts.append(rest)
        request.chunks.append(Chunk(rest, finish_reason=reason))

    def _emit(self, text: str, chosen: Chosen) -> None:
        if text:
            self.request.text_parts.append(text)
        logprobs = () if chosen.logprob is None else (chosen.logprob,)
        self.request.chunks.append(Chunk(text, (chosen.token_id,), logprobs))
