"""The one count of requests, of tokens by kind of hit, and of why requests did not share."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class TokenCounts:
    """Running sums over requests.

    Attributes:
        requests: requests that came.
        prompt_tokens: tokens of their prompts.
        base_hit_tokens: prompt tokens whose K and V_base were cached.
        lr_hit_tokens: prompt tokens whose LR slot was valid too, of requests that read a slot.
        reused_tokens: prompt tokens that needed no computation.
        recomputed_tokens: tokens run again although their K and V_base were cached: to fill an LR
            slot, or for the last token's output.
        not_shared: requests that reused no page, by reason (`lragent.cache.sharing_reasons`).
    """

    requests: int = 0
    prompt_tokens: int = 0
    base_hit_tokens: int = 0
    lr_hit_tokens: int = 0
    reused_tokens: int = 0
    recomputed_tokens: int = 0
    not_shared: Counter[str] = field(default_factory=Counter)

    def arrived(self, prompt_tokens: int) -> None:
        """Count a new request."""
        self.requests += 1
        self.prompt_tokens += prompt_tokens

    def admitted(self, base: int, lr: int | None, reused: int, not_shared: str | None) -> None:
        """Count what a request found in the cache when it was admitted.

        Args:
            base: leading tokens whose K and V_base were cached.
            lr: leading tokens whose LR slot was valid; None when it reads no slot.
            reused: leading tokens that need no computation.
            not_shared: why it reused no page; None when it did.
        """
        self.base_hit_tokens += base
        self.lr_hit_tokens += lr or 0
        self.reused_tokens += reused
        self.recomputed_tokens += base - reused
        if not_shared is not None:
            self.not_shared[not_shared] += 1
