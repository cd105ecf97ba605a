"""What a request adds to its logits and takes from them, before temperature and filters."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import torch
from torch import Tensor
from transformers import RepetitionPenaltyLogitsProcessor

from lragent.engine.grammar import TokenFilter
from lragent.engine.params import SamplingParams


class LogitsEdit:
    """Grammar, bias, the end held off, and penalties; false when there is none of them."""

    def __init__(
        self,
        params: SamplingParams,
        device: torch.device,
        prompt_tokens: int,
        ends: Collection[int],
        form: TokenFilter | None = None,
    ):
        self._params = params
        self._form = form
        self._prompt_tokens = prompt_tokens
        bias = params.logit_bias or {}
        if bias:
            self._biased = torch.tensor(list(bias), dtype=torch.int64, device=device)
            self._bias = torch.tensor(list(bias.values()), dtype=torch.float32, device=device)
        if params.min_tokens:
            self._ends = torch.tensor(sorted(ends), dtype=torch.int64, device=device)
        self._repetition: RepetitionPenaltyLogitsProcessor | None = None
        if params.repetition_penalty != 1.0:
            self._repetition = RepetitionPenaltyLogitsProcessor(params.repetition_penalty)
        by_use = params.presence_penalty or params.frequency_penalty
        self._any = bool(form or bias or params.min_tokens or self._repetition or by_use)

    def __bool__(self) -> bool:
        return self._any

    def __call__(self, logits: Tensor, tokens: Sequence[int]) -> Tensor:
        """New logits `[vocab]` from one row of them (fp32) after `tokens`, prompt and output."""
        params, output = self._params, tokens[self._prompt_tokens :]
        row = logits.clone()
        if params.logit_bias:
            row.index_add_(0, self._biased, self._bias)
        if self._form is not None:
            row.masked_fill_(self._form.forbidden(output).to(row.device), -math.inf)
        if len(output) < params.min_tokens:
            row[self._ends] = -math.inf
        if self._repetition is not None:
            seen = torch.tensor([list(tokens)], device=row.device)
            row = self._repetition(seen, row[None])[0]  # pyright: ignore[reportArgumentType]
        if output and (params.presence_penalty or params.frequency_penalty):
            used, times = torch.tensor(list(output), device=row.device).unique(return_counts=True)
            row[used] -= times * params.frequency_penalty + params.presence_penalty
        return row
