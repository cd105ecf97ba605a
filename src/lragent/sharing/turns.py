"""Where a request's context ends and the turn of its adapter begins."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

from lragent.sharing.slots import Weights


def context_tokens(adapter: Weights, prompt: Sequence[int]) -> int | None:
    """How many leading tokens of a request the base model computes; None for all of them.

    The adapter acts from the last occurrence of its acting tokens in the prompt on. When it names
    none, or they do not occur, it acts from the prompt's last token on; an aLoRA adapter without
    its invocation tokens does not act at all, as in PEFT.
    """
    found = last_occurrence(prompt, adapter.acting_tokens or ())
    if found is not None:
        return found
    return None if adapter.is_alora else len(prompt) - 1


def last_occurrence(prompt: Sequence[int], tokens: Sequence[int]) -> int | None:
    """Where ``tokens`` begin the last time in a prompt; None if they do not occur, or are none.

    Searched as bytes: a prompt may have 100,000 tokens, and a request waits for this.
    """
    if not tokens:
        return None
    whole, part = (array("q", ids).tobytes() for ids in (prompt, tokens))
    size, end = array("q").itemsize, len(whole)
    while (at := whole.rfind(part, 0, end)) >= 0:
        if at % size == 0:
            return at // size
        end = at + len(part) - 1
    return None
