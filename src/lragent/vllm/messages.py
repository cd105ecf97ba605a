"""What vLLM's processes tell each other: plain data, no tensor in it."""

from __future__ import annotations

from dataclasses import dataclass, field

OWN_ROW = -1
"""In place of a row: the request's own adapter."""

NEVER = 2**31 - 1
"""In place of a token's position: behind the last one that any request has."""


@dataclass(frozen=True)
class SlotWrite:
    """One LR slot that a request's tokens write.

    Attributes:
        slot: the slot.
        row: row among the down-projections that workers hold for groups, or ``OWN_ROW``.
        start: first token to write; earlier ones are valid already and may be in use.
        stop: first token not to write; slots of other adapters end with the context that the base
            model computes.
    """

    slot: int
    row: int
    start: int
    stop: int = NEVER


@dataclass(frozen=True)
class Admission:
    """How one admitted (or resumed) request uses its pages.

    Attributes:
        base_tokens: leading tokens whose K and V_base are another request's and must stay.
        slot: LR slot that its attention reads, -1 for none.
        fills: slots that it writes.
        folds: its adapter's term goes into V (policy ``full``).
        acts_from: first token that its adapter computes; the base model computes those before.
    """

    base_tokens: int
    slot: int
    fills: tuple[SlotWrite, ...]
    folds: bool
    acts_from: int = 0


@dataclass(frozen=True)
class RowLoad:
    """A down-projection to load: from ``folder``, into ``row``, and its slot digest."""

    row: int
    digest: str
    folder: str


@dataclass(frozen=True)
class StepMessage:
    """Orders that travel with one scheduler output."""

    admissions: dict[str, Admission] = field(default_factory=dict)
    loads: tuple[RowLoad, ...] = ()
