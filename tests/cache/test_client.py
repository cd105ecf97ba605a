from __future__ import annotations

from dataclasses import replace

import pytest
from tests.cache.helpers import client

from lragent.sharing import Policy


@pytest.mark.parametrize(
    ("policy", "slot", "needed", "filled"),
    [
        (Policy.ISOLATED, 1, 0b10, 0b10),
        (Policy.BASE, 1, 0b10, 0b10),
        (Policy.BASE, None, 0, 0),
        (Policy.BASE_LR, 1, 0b10, 0b101010),
        (Policy.BASE_LR, None, 0, 0b101010),
        (Policy.FULL, None, 0, 0),
    ],
)
def test_slots_read_and_filled(policy: Policy, slot: int | None, needed: int, filled: int) -> None:
    who = client(policy, slot, (1, 3, 5))
    assert (who.needed_mask, who.filled_mask) == (needed, filled)


def test_policies_never_meet_even_under_one_sharer_digest() -> None:
    """``full`` pages hold adapter terms in V."""
    roots = {client(policy).root for policy in Policy}
    assert len(roots) == len(Policy)
    assert client().root == client(slot=1).root


def test_bad_slots_are_refused() -> None:
    with pytest.raises(ValueError, match="not be negative"):
        client(slot=-1)
    with pytest.raises(ValueError, match="not among the slots"):
        replace(client(), slot=7)
