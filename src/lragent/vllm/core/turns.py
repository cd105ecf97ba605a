"""Where the turn of a request's adapter begins, and which of its tokens others may read."""

from __future__ import annotations

from typing import Any

from lragent.vllm.messages import NEVER

_ATTRIBUTE = "lragent_acts_from"


def acts_from(request: Any) -> int:
    """First token of a bound request that its adapter computes; ``NEVER`` where none does.

    It follows from the prompt, and stays when the request is preempted.
    """
    known: int | None = getattr(request, _ATTRIBUTE, None)
    if known is not None:
        return known
    binding = request.lragent_binding
    prompt = request.all_token_ids[: request.num_prompt_tokens] if binding.base_reads else ()
    context: int | None = binding.context_tokens(prompt)
    first = NEVER if context is None else context
    setattr(request, _ATTRIBUTE, first)
    return first


def shareable(request: Any) -> int:
    """How many leading tokens of a bound request later requests may read.

    Blocks with a token of a turn are private where the base model computes the context.
    """
    return acts_from(request) if request.lragent_binding.base_reads else NEVER
