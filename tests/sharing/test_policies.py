from __future__ import annotations

import pytest

from lragent.sharing import Policy


def test_policy_properties() -> None:
    assert [p for p in Policy if not p.shares_base] == [Policy.ISOLATED]
    assert [p for p in Policy if not p.has_slots] == [Policy.FULL]
    assert [p for p in Policy if p.fills_all_slots] == [Policy.NEUTRAL, Policy.BASE_LR]
    assert [p for p in Policy if p.base_reads] == [Policy.NEUTRAL]


def test_an_unknown_name_is_told_the_known_ones() -> None:
    with pytest.raises(
        ValueError, match=r"'shared' is none of isolated, neutral, full, base, base\+lr"
    ):
        Policy("shared")
