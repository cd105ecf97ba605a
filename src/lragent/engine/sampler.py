"""Choosing the next tokens from the logits of a step."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from lragent.engine.grammar import TokenFilter
from lragent.engine.logits_edit import LogitsEdit
from lragent.engine.outputs import TokenLogprob
from lragent.engine.params import SamplingParams


@dataclass(frozen=True)
class Chosen:
    """A sampled token, the log-probabilities that were asked for, or why there is none."""

    token_id: int
    logprob: TokenLogprob | None = None
    distribution: Tensor | None = None
    error: str | None = None


class RequestSampler:
    """The logits processors and the random state of one request.

    Args:
        params: how to choose.
        device: of the logits.
        forced: prompt and output that the request must have, so that there is nothing to choose.
        prompt_tokens: leading tokens that are not output.
        ends: tokens that end the output.
        form: which tokens may come; None for all.
    """

    def __init__(
        self,
        params: SamplingParams,
        device: torch.device,
        forced: Sequence[int] | None = None,
        prompt_tokens: int = 0,
        ends: Collection[int] = (),
        form: TokenFilter | None = None,
    ):
        self.params = params
        self._forced = forced
        self._edit = LogitsEdit(params, device, prompt_tokens, ends, form)
        warpers = LogitsProcessorList()
        if params.temperature > 0:
            if params.temperature != 1.0:
                warpers.append(TemperatureLogitsWarper(params.temperature))
            if params.min_p:
                warpers.append(MinPLogitsWarper(params.min_p))
            if params.top_k:
                warpers.append(TopKLogitsWarper(params.top_k))
            if params.top_p < 1.0:
                warpers.append(TopPLogitsWarper(params.top_p))
        self._warpers = warpers
        self._generator: torch.Generator | None = None
        self._drawn: tuple[int, Tensor] | None = None  # tokens at the last draw, state before it
        if params.temperature > 0:
            self._generator = torch.Generator(device)
            if params.seed is None:
                self._generator.seed()
            else:
                self._generator.manual_seed(params.seed)

    @property
    def is_plain_greedy(self) -> bool:
        """Whether the likeliest token of the raw logits is the choice."""
        return self.params.temperature == 0 and not self._edit and self._forced is None

    def choose(self, logits: Tensor, tokens: Sequence[int]) -> Tensor:
        """Pick from one row of logits `[vocab]` (fp32) after `tokens`; returns a 0-d int64."""
        if self._forced is not None:
            return torch.tensor(self._forced[len(tokens)])
        row = (self._edit(logits, tokens) if self._edit else logits)[None]
        if self._generator is None:
            return row[0].argmax()
        # A step that was interrupted after the draw draws the same again.
        if self._drawn is not None and self._drawn[0] == len(tokens):
            self._generator.set_state(self._drawn[1])
        else:
            self._drawn = len(tokens), self._generator.get_state()
        # the warpers look at the scores alone
        row = self._warpers(None, row)  # pyright: ignore[reportArgumentType]
        # The largest p / Exponential(1) is at i with probability p_i. Unlike `multinomial` this
        # never asserts on a GPU, which would end every request's work there.
        waits = torch.empty_like(row[0]).exponential_(generator=self._generator)
        waits.clamp_min_(torch.finfo(waits.dtype).tiny)  # 0 divided by 0 would win
        return (row[0].softmax(-1) / waits).argmax()


def sample(
    logits: Tensor, samplers: Sequence[RequestSampler], tokens: Sequence[Sequence[int]]
) -> list[Chosen]:
    """Choose one token for each row of `logits` `[L, vocab]` (any float dtype).

    `tokens` are the prompt and output so far of each row's request. The device is waited for once.
    A row that cannot be sampled from gets an error and leaves the others alone.
    """
    logits = logits.float()
    highest, picks = logits.max(-1)  # NaN wherever the row has one
    errors: dict[int, str] = {}
    for row, sampler in enumerate(samplers):
        if not sampler.is_plain_greedy:
            try:
                picks[row] = sampler.choose(logits[row], tokens[row])
            except Exception as error:  # of this request alone
                errors[row] = f"{type(error).__name__}: {error}"
    ids = torch.where(highest.isfinite(), picks, -1).tolist()
    for row, token in enumerate(ids):
        if token < 0:
            errors[row] = "the model's logits hold NaN or Inf; check the adapter's weights"
    asking = [s.params.logprobs is not None or s.params.distributions for s in samplers]
    wanted = [row for row, asks in enumerate(asking) if asks and row not in errors]
    logprobs: dict[int, TokenLogprob] = {}
    distributions: dict[int, Tensor] = {}
    if wanted:
        table = logits[wanted].log_softmax(-1)
        for place, row in enumerate(wanted):
            params = samplers[row].params
            if params.distributions:
                distributions[row] = table[place]
            if params.logprobs is None:
                continue
            values, top = table[place].topk(min(params.logprobs, table.shape[1]))
            logprobs[row] = TokenLogprob(
                ids[row],
                table[place, ids[row]].item(),
                dict(zip(top.tolist(), values.tolist(), strict=True)),
            )
    return [
        Chosen(token, logprobs.get(row), distributions.get(row), errors.get(row))
        for row, token in enumerate(ids)
    ]
