"""Which down-projections the workers hold for groups whose first agent fills every slot."""

from __future__ import annotations

from collections.abc import Callable, Collection

from lragent.vllm.core.adapters import Content
from lragent.vllm.messages import RowLoad


class RowTable:
    """Rows by slot digest. A row keeps its content while a group or a request still uses it.

    Args:
        capacity: rows that a worker has.
        in_use: digests that must stay.
    """

    def __init__(self, capacity: int, in_use: Callable[[], Collection[str | None]]):
        self._capacity = capacity
        self._in_use = in_use
        self._row_of: dict[str, int] = {}
        self._loads: list[RowLoad] = []

    def row(self, content: Content) -> int | None:
        """The row of the content's A, loaded with the next step; None when all are in use."""
        digest = content.slot_digest
        assert digest is not None, "only adapters with a cached term fill slots"
        if digest in self._row_of:
            return self._row_of[digest]
        row = self._free_row()
        if row is not None:
            self._row_of[digest] = row
            self._loads.append(RowLoad(row, digest, content.folder))
        return row

    def take_loads(self) -> tuple[RowLoad, ...]:
        """Loads that no step has carried yet."""
        loads, self._loads = tuple(self._loads), []
        return loads

    def _free_row(self) -> int | None:
        taken = set(self._row_of.values())
        free = next((row for row in range(self._capacity) if row not in taken), None)
        if free is not None:
            return free
        keep = self._in_use()
        for digest, row in self._row_of.items():
            if digest not in keep:
                del self._row_of[digest]
                return row
        return None
