"""Log-probabilities of a prompt's own tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lragent.engine.outputs import TokenLogprob
from lragent.engine.scheduler import Scheduled


def sampling_rows(plan: Sequence[Scheduled]) -> list[int]:
    """Rows of the step's logits that choose a token; the others are of prompts."""
    rows, place = [], 0
    for item in plan:
        place += len(item.prompt_positions)
        if item.samples:
            rows.append(place)
            place += 1
    return rows


def record_prompts(plan: Sequence[Scheduled], logits: Tensor) -> dict[int, Exception]:
    """Give the requests that ask for them the log-probabilities in the step's `logits`.

    `logits` is `[L, vocab]` in any float dtype. Returns the errors, by the request's number.
    """
    failed: dict[int, Exception] = {}
    place = 0
    for item in plan:
        positions = item.prompt_positions
        rows = logits[place : place + len(positions)]
        place += len(positions) + item.samples
        if positions:
            try:
                _record(item, positions, rows)
            except Exception as error:  # of this request alone
                failed[item.request.id] = error
    return failed


def _record(item: Scheduled, positions: range, logits: Tensor) -> None:
    request = item.request
    table = logits.float().log_softmax(-1)
    if table.isnan().any():
        raise ValueError("the model's logits hold NaN or Inf; check the adapter's weights")
    following = request.tokens[positions.start + 1 : positions.stop + 1]
    index = torch.tensor(following, device=table.device)[:, None]
    own = table.gather(1, index)[:, 0].tolist()
    values, top = table.topk(min(request.params.prompt_logprobs or 0, table.shape[1]))
    for place, row, token, logprob in zip(positions, range(len(own)), following, own, strict=True):
        likeliest = dict(zip(top[row].tolist(), values[row].tolist(), strict=True))
        request.prompt_logprobs[place + 1] = TokenLogprob(token, logprob, likeliest)
