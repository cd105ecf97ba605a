"""Where a request's context ends and the turn of its adapter begins."""

from __future__ import annotations

from collections.abc import Sequence

from lragent.sharing.slots import Weights


def context_tokens(adapter: Weights, prompt: Sequence[int]) -> int | None:
    """How many leading tokens of a request the base model computes; None for all of them.

    The adapter acts from the last occurrence of its acting tokens in the prompt on, or from the
    prompt's last token when it names none. Where they do not occur it does not act at all, as in
    PEFT's aLoRA.
    """
    acting = adapter.acting_tokens
    if acting is None:
        return len(prompt) - 1
    wanted, size = list(acting), len(acting)
    starts = range(len(prompt) - size, -1, -1)
    return next((i for i in starts if list(prompt[i : i + size]) == wanted), None)
