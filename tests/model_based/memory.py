"""Symbolic page contents: who wrote what, written as an engine that obeys its lease would."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from tests.model_based.reference import Request, Scope
from tests.model_based.world import Adapter

from lragent.sharing import Binding

BASE = "base model"


class Row(NamedTuple):
    """K and V of one token, or ``x A`` of one slot of it.

    ``writer`` computed the hidden state. ``term`` is the adapter whose LoRA term K and V hold, None
    for base values; ``a`` the down-projection of a slot.
    """

    scope: Scope
    writer: str
    prefix: tuple[int, ...]
    term: str | None = None
    a: str | None = None


class Memory:
    """(page, offset) → contents. Nothing is erased when a page changes hands, as in a real pool."""

    def __init__(self, page_size: int) -> None:
        self.page_size = page_size
        self.base: dict[tuple[int, int], Row] = {}
        self.lr: dict[tuple[int, int, int], Row] = {}

    def write(
        self, request: Request, binding: Binding[Adapter], writes_from: dict[int, int], stop: int
    ) -> None:
        """Run the tokens up to ``stop`` and store what the lease allows to store."""
        spec = request.spec
        for t in range(request.done, stop):
            page, offset = request.pages[t // self.page_size], t % self.page_size
            prefix = tuple(request.tokens[: t + 1])
            turn = not binding.base_reads or t >= request.context
            writer = spec.adapter.digest if spec.adapter is not None and turn else BASE
            if t >= request.base:
                folds = spec.policy == "full" or (
                    spec.adapter is not None and spec.adapter.is_alora
                )
                term = writer if folds and writer != BASE else None
                self.base[page, offset] = Row(request.scope, writer, prefix, term)
            for fill in binding.fills:
                own_only = binding.base_reads and turn
                if t >= writes_from[fill.slot] and (not own_only or fill.slot == binding.slot):
                    row = Row(request.scope, writer, prefix, a=fill.adapter.slot_digest)
                    self.lr[page, offset, fill.slot] = row

    def check_hits(
        self, request: Request, slot: int | None, lr: int, writers: Collection[str]
    ) -> None:
        """Every token that the lease calls cached holds what this request demands."""
        spec, adapter = request.spec, request.spec.adapter
        for t in range(request.base):
            page, offset = request.pages[t // self.page_size], t % self.page_size
            base = self.base[page, offset]
            self._check(base, request, t, writers)
            terms = {None, *writers} if spec.policy == "full" else {None}
            assert base.term in terms, f"{adapter} reads an adapter's term: {base}"
            if t < lr and slot is not None and adapter is not None:
                row = self.lr[page, offset, slot]
                self._check(row, request, t, writers)
                assert row.a == adapter.slot_digest, f"{adapter} reads the slot of another A: {row}"
                if spec.policy == "base":
                    assert row.writer == adapter.digest, f"{adapter} reads LR of another's: {row}"

    def _check(self, row: Row, request: Request, t: int, writers: Collection[str]) -> None:
        prefix, who = tuple(request.tokens[: t + 1]), request.spec.adapter or BASE
        assert row.scope[1] == request.tenant, f"{who} of {request.tenant!r} reads {row}"
        assert row.prefix == prefix, f"{who} wants {prefix}, reads {row}"
        assert row.writer in writers, f"{who} may not read {row}"
        assert row.scope == request.scope, f"{who} in {request.scope} reads {row}"

    def check_published(self, page: int, scope: Scope, slots: Collection[tuple[int, str]]) -> None:
        """A published page: one scope, an adapter's term only under ``full``, true bits."""
        for offset in range(self.page_size):
            base = self.base[page, offset]
            assert base.scope == scope, f"page {page}: {base}"
            assert base.term is None or scope[0] == "full", f"page {page} holds a term: {base}"
            if scope[0] == "neutral":
                assert base.writer == BASE, f"page {page} holds a turn: {base}"
            for slot, key in slots:
                row = self.lr[page, offset, slot]
                assert row[:3:2] == base[:3:2], f"page {page}, slot {slot}: {row} over {base}"
                found = row.writer if scope[0] in ("base", "isolated") else row.a
                assert found == key, f"page {page}, slot {slot} of {key}: {row}"
                if scope[0] == "neutral":
                    assert row.writer == BASE, f"page {page}, slot {slot} holds a turn: {row}"
