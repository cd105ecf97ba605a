"""Where a request's context ends and the turn of its adapter begins."""

from __future__ import annotations

from collections.abc import Sequence

from lragent.sharing.slots import Weights


def context_tokens(adapter: Weights, prompt: Sequence[int]) -> int | None:
    """How many leading tokens of a request the base model computes; None for all of them.

    The adapter acts from the last occurrence of its acting tokens in the prompt on. When it names
    none, or they do not occur, it acts from the prompt's last token on; an aLoRA adapter without
    its invocation tokens does not act at all, as in PEFT.
    """
    wanted = list(adapter.acting_tokens or ())
    size = len(wanted)
    starts = range(len(prompt) - size, -1, -1) if wanted else ()
    elsewhere = None if adapter.is_alora else len(prompt) - 1
    return next((i for i in starts if list(prompt[i : i + size]) == wanted), elsewhere)
