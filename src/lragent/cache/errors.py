"""What the cache raises."""

from __future__ import annotations


class OutOfPages(RuntimeError):  # noqa: N818 - it is an ordinary outcome, like StopIteration
    """A lease cannot grow: too many pages are leased. Nothing was changed.

    Attributes:
        needed: pages that the call had to add.
        available: free and idle pages there were.
        total: pages of the pool.
    """

    def __init__(self, needed: int, available: int, total: int) -> None:
        self.needed = needed
        self.available = available
        self.total = total
        way_out = (
            "release or preempt another request first"
            if needed <= total
            else "this request can never fit: give the cache more bytes or shorten the prompt"
        )
        super().__init__(
            f"{needed} more pages needed, {available} of {total} available "
            f"(the others are leased); {way_out}"
        )


class LeaseError(ValueError):
    """A lease was used after its release, with another manager, or out of order."""


class IntegrityError(RuntimeError):
    """The cache's books do not balance.

    Attributes:
        violations: every violated invariant, with its numbers.
    """

    def __init__(self, violations: list[str]) -> None:
        self.violations = tuple(violations)
        lines = "\n  - ".join(violations)
        super().__init__(f"{len(violations)} cache invariant(s) violated:\n  - {lines}")
