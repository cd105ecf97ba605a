"""The sharing policies: `neutral`, and those of LRAgent (arXiv 2602.01053) and PReCache."""

from __future__ import annotations

from enum import StrEnum


class Policy(StrEnum):
    """Which parts of a page agents share, and who fills its LR slots.

    ``isolated``: nothing is shared between adapters. ``neutral``: the base model computes a
    request's context, K, V_base and every LR slot of the group, and the adapter acts in its turn
    only, whose pages are private; so a page depends on no adapter's B and on nobody's order.
    ``full``: K and V with the first agent's adapter term folded in, no LR slots. ``base``: K and
    V_base are shared, each agent fills its own slot by its own forward pass. ``base+lr``: K, V_base
    and LR are shared, whoever comes first fills every slot of the group.
    """

    ISOLATED = "isolated"
    NEUTRAL = "neutral"
    FULL = "full"
    BASE = "base"
    BASE_LR = "base+lr"

    @classmethod
    def _missing_(cls, value: object) -> Policy:
        known = ", ".join(policy.value for policy in cls)
        raise ValueError(f"policy {value!r} is none of {known}")

    @property
    def shares_base(self) -> bool:
        """Whether K and V may be read by an adapter other than the one that wrote them."""
        return self is not Policy.ISOLATED

    @property
    def has_slots(self) -> bool:
        """Whether pages carry LR slots; without them V holds the adapter term."""
        return self is not Policy.FULL

    @property
    def fills_all_slots(self) -> bool:
        """Whether a token that others may read gets every slot of its group at once."""
        return self in (Policy.BASE_LR, Policy.NEUTRAL)

    @property
    def base_reads(self) -> bool:
        """Whether the base model computes the context, and the adapter acts in its turn only."""
        return self is Policy.NEUTRAL
