"""What an engine tells about its cache and its sharing, in plain data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypedDict


class Report(TypedDict):
    """The numbers of one engine, embedded or a core of vLLM's.

    Attributes:
        pages: how many there are, how many requests hold, and how many later requests can find,
            whether held or not.
        bytes: size of a page over all layers of a rank; of the pages that can be found, what K and
            V_base take, what LR slots take, and what the valid ones of these take. Of the embedded
            engine also what the same contents would take under `isolated`.
        requests: admissions.
        tokens: counts of tokens by what was cached of them.
        not_shared: admissions that reused no page, by reason.
        unloaded: adapters that were unloaded, and bytes of pages that this freed.
        groups: policy and members of each sharing group (`Groups.summary`).
    """

    pages: dict[str, int]
    bytes: dict[str, int]
    requests: int
    tokens: dict[str, int]
    not_shared: dict[str, int]
    unloaded: dict[str, int]
    groups: list[Mapping[str, object]]
