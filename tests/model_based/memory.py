"""Symbolic page contents: who wrote what, written as an engine that obeys its lease would."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from tests.model_based.reference import Held
from tests.model_based.world import Spec

from lragent.cache import Lease
from lragent.sharing import Policy


class Base(NamedTuple):
    """K and V of one token. ``term`` is the adapter whose LoRA term V holds, None for V_base."""

    tenant: str
    policy: str
    writer: str
    prefix: tuple[int, ...]
    term: str | None


class Lr(NamedTuple):
    """One LR slot of one token: ``x A`` with the hidden state of ``writer``."""

    tenant: str
    writer: str
    prefix: tuple[int, ...]
    a: str
    own_pass: bool  # whether the writer itself reads this slot


class Memory:
    """page id → contents. Nothing is erased when a page changes hands, as in a real pool."""

    def __init__(self, page_size: int) -> None:
        self.page_size = page_size
        self.base: dict[tuple[int, int], Base] = {}
        self.lr: dict[tuple[int, int, int], Lr] = {}

    def write(self, held: Held, lease: Lease, stop: int) -> None:
        """Run the tokens up to ``stop`` and store what the lease allows to store."""
        spec = held.spec
        for t in range(held.done, stop):
            page, offset = held.pages[t // self.page_size], t % self.page_size
            prefix = tuple(held.tokens[: t + 1])
            in_context = held.context is not None and t < held.context
            writer = "base-model" if in_context else spec.weights
            if t >= lease.base_tokens:
                term = None
                if spec.policy is Policy.FULL and spec.weights != "base-model":
                    term = spec.weights
                self.base[page, offset] = Base(spec.tenant, spec.policy.value, writer, prefix, term)
            if t >= lease.lr_tokens:
                for slot in spec.fills:
                    self.lr[page, offset, slot] = Lr(
                        spec.tenant, writer, prefix, spec.a_of[slot], slot == spec.slot
                    )

    def check_hits(self, spec: Spec, lease: Lease, tokens: Sequence[int]) -> None:
        """Every token that the lease calls cached holds what this client and prompt demand."""
        assert lease.lr_tokens <= lease.base_tokens, lease
        assert lease.base_tokens == len(lease.pages) * self.page_size, lease
        for t in range(lease.base_tokens):
            page, offset = lease.pages[t // self.page_size], t % self.page_size
            prefix = tuple(tokens[: t + 1])
            self._check_base(self.base[page, offset], spec, prefix)
            if t < lease.lr_tokens and spec.slot is not None:
                self._check_lr(self.lr[page, offset, spec.slot], spec, prefix)

    def check_published(self, page: int, scope: tuple[str, str, str], slots: set[int]) -> None:
        """A published page: one tenant, an adapter term only under ``full``, true bits."""
        policy, tenant, _ = scope
        for offset in range(self.page_size):
            base = self.base[page, offset]
            assert (base.policy, base.tenant) == (policy, tenant), f"page {page}: {base}"
            assert base.term is None or policy == "full", f"page {page} holds a term: {base}"
            if policy == "neutral":
                assert base.writer == "base-model", f"page {page} holds a turn: {base}"
            for slot in slots:
                lr = self.lr[page, offset, slot]
                assert lr.prefix == base.prefix, f"page {page}, slot {slot}: {lr} over {base}"
                assert lr.tenant == tenant, f"page {page}, slot {slot}: {lr} over {base}"

    def _check_base(self, base: Base, spec: Spec, prefix: tuple[int, ...]) -> None:
        assert base.tenant == spec.tenant, f"{spec.weights} of {spec.tenant!r} reads {base}"
        assert base.prefix == prefix, f"{spec.weights} wants {prefix}, reads {base}"
        assert base.writer in spec.members, f"{spec.weights} may not read {base}"
        wanted = {None} if spec.policy is not Policy.FULL else {*spec.members, None}
        assert base.term in wanted, f"{spec.weights} reads an adapter term: {base}"

    def _check_lr(self, lr: Lr, spec: Spec, prefix: tuple[int, ...]) -> None:
        assert spec.slot is not None, spec
        assert lr.tenant == spec.tenant, f"{spec.weights} of {spec.tenant!r} reads {lr}"
        assert lr.prefix == prefix, f"{spec.weights} wants {prefix}, reads {lr}"
        assert lr.writer in spec.members, f"{spec.weights} may not read {lr}"
        assert lr.a == spec.a_of[spec.slot], f"{spec.weights} reads the slot of another A: {lr}"
        if spec.policy in (Policy.BASE, Policy.ISOLATED):
            assert lr.own_pass, f"{spec.weights} reads LR of another agent's pass: {lr}"
