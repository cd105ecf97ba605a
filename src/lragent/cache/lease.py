"""A request's hold on its pages."""

from __future__ import annotations

from lragent.cache.client import CacheClient


class Lease:
    """The pages of one sequence and what is valid in them. Read it; the manager changes it.

    Write rules for the holder: K and V_base only of tokens from ``base_tokens`` on, each LR slot
    only of tokens from its number in ``fill_from`` on. Earlier ones may be in use by others.

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
            ``base_tokens`` are run for their hidden states, and to fill slots.
        fill_from: for each slot of ``client.fills`` the token from which on the lease writes it:
            the first page that lacks it and all of whose tokens are run.
        not_shared: why no page was reused (a label of ``sharing_reasons``), None when one was.
        committed: leading tokens that are in the pages now.
    """

    __slots__ = (
        "base_tokens",
        "chain",
        "client",
        "committed",
        "computed_tokens",
        "detached",
        "fill_from",
        "lr_tokens",
        "not_shared",
        "pages",
        "shareable",
    )

    def __init__(
        self,
        client: CacheClient,
        pages: list[int],
        chain: bytes,
        *,
        base_tokens: int,
        lr_tokens: int,
        computed_tokens: int,
        fill_from: tuple[int, ...],
        not_shared: str | None,
        shareable: int | None,
    ) -> None:
        self.client = client
        self.pages = pages
        self.chain = chain  # key of the last full page, what the next one chains to
        self.base_tokens = base_tokens
        self.lr_tokens = lr_tokens
        self.fill_from = fill_from
        self.computed_tokens = computed_tokens
        self.not_shared = not_shared
        self.shareable = shareable
        self.committed = self.computed_tokens
        self.detached = False  # its sharer was forgotten: publish nothing more

    def __repr__(self) -> str:
        return (
            f"Lease({len(self.pages)} pages, base_tokens={self.base_tokens}, "
            f"lr_tokens={self.lr_tokens}, computed_tokens={self.computed_tokens}, "
            f"committed={self.committed}, policy={self.client.scope.policy!r})"
        )
