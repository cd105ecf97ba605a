"""A request's hold on its pages."""

from __future__ import annotations

from lragent.cache.client import CacheClient


class Lease:
    """The pages of one sequence and what is valid in them. Read it; the manager changes it.

    Write rules for the holder: K and V_base only of tokens from ``base_tokens`` on, LR slots only
    of tokens from ``lr_tokens`` on, and up to ``base_tokens`` only the client's own one. All else
    may be in use by others.

    Attributes:
        client: whose lease it is.
        shareable: leading tokens that others may read; pages with any later token in them are
            never published. None: all tokens.
        pages: page ids; token ``t`` is in ``pages[t // page_size]``.
        base_tokens: leading tokens whose K and V_base are cached.
        lr_tokens: leading tokens whose LR slot is valid for this client; equal to ``base_tokens``
            when the client needs no LR.
        computed_tokens: leading tokens that need no computation at all; at most all but one of the
            admitted tokens, because the last one's output is wanted. Tokens from here to
            ``base_tokens`` are run for their hidden states, and to fill the slot from
            ``lr_tokens`` on.
        not_shared: why no page was reused (a label of ``sharing_reasons``), None when one was.
        committed: leading tokens that are in the pages now.
    """

    __slots__ = (
        "base_tokens",
        "chain",
        "client",
        "committed",
        "computed_tokens",
        "counted",
        "detached",
        "lr_tokens",
        "not_shared",
        "pages",
        "prompt_tokens",
        "shareable",
    )

    def __init__(
        self,
        client: CacheClient,
        pages: list[int],
        chain: bytes,
        *,
        prompt_tokens: int,
        base_tokens: int,
        lr_tokens: int,
        not_shared: str | None,
        shareable: int | None = None,
    ) -> None:
        self.client = client
        self.pages = pages
        self.chain = chain  # key of the last full page, what the next one chains to
        self.prompt_tokens = prompt_tokens
        self.base_tokens = base_tokens
        self.lr_tokens = lr_tokens
        self.computed_tokens = min(base_tokens, lr_tokens, prompt_tokens - 1)
        self.not_shared = not_shared
        self.shareable = shareable
        self.committed = self.computed_tokens
        self.counted = False  # whether the statistics know of it
        self.detached = False  # its sharer was forgotten: publish nothing more

    def __repr__(self) -> str:
        return (
            f"Lease({len(self.pages)} pages, base_tokens={self.base_tokens}, "
            f"lr_tokens={self.lr_tokens}, computed_tokens={self.computed_tokens}, "
            f"committed={self.committed}, policy={self.client.policy.value!r})"
        )
