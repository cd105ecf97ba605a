"""Members that join, leave and are replaced, with adapters that are digests alone."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from lragent.adapters import AdapterError
from lragent.sharing import Groups, Policy, SharingGroup
from lragent.sharing.group import Group


@dataclass(frozen=True)
class Fake:
    digest: str
    slot_digest: str | None
    is_alora: bool = False
    acting_tokens: tuple[int, ...] | None = None


PLAN, ACT = Fake("plan", "A"), Fake("act", "A")
OTHER, THIRD = Fake("other", "B"), Fake("third", "C")
HINT = "ask for {} slots"


def made(policy: str = "base+lr", slots: int = 2, **members: Fake) -> Group[Fake]:
    group: Group[Fake] = Group(SharingGroup("g", tuple(members), policy, open=True), 0)
    group.join(members, slots, HINT)
    return group


def groups_of(*declared: SharingGroup, **adapters: Fake) -> Groups[Fake]:
    return Groups(declared, adapters, None, HINT)


def fills(group: Group[Fake], name: str | None) -> dict[int, Fake]:
    return {fill.slot: fill.adapter for fill in group.bind(name).fills}


@pytest.mark.parametrize("policy", [p for p in Policy if p.shares_base])
def test_a_member_that_joins_does_not_end_the_pages(policy: str) -> None:
    group = made(policy, plan=PLAN)
    sharer = group.sharer
    group.join({"other": OTHER}, 2, HINT)
    assert group.bind("other").sharer == group.bind("plan").sharer == sharer


def test_slots_stay_where_they_are_when_a_member_joins() -> None:
    group = made(third=THIRD)  # C has slot 0, although A comes before it
    group.join({"plan": PLAN}, 2, HINT)
    assert [group.bind(name).slot for name in ("third", "plan")] == [0, 1]
    assert fills(group, "third") == fills(group, "plan") == {0: THIRD, 1: PLAN}


def test_other_weights_under_a_members_name_end_the_pages() -> None:
    group = made(plan=PLAN, act=ACT)
    seen = {group.sharer}
    for weights in (OTHER, PLAN, OTHER):
        group.join({"plan": weights}, 2, HINT)
        assert group.sharer not in seen
        seen.add(group.sharer)


def test_under_neutral_other_weights_keep_the_pages_and_a_new_a_takes_a_new_slot() -> None:
    group = made("neutral", plan=PLAN, act=ACT)
    sharer = group.sharer
    group.join({"plan": Fake("another B", "A")}, 2, HINT)
    assert (group.sharer, group.bind("plan").slot) == (sharer, 0)
    group.join({"plan": OTHER}, 2, HINT)
    assert (group.sharer, group.bind("plan").slot, group.bind("act").slot) == (sharer, 1, 0)
    group.join({"plan": THIRD}, 2, HINT)  # no slot is left, so B's is given away
    assert group.sharer != sharer
    assert {group.bind(name).slot for name in ("plan", "act")} == {0, 1}


def test_under_neutral_the_base_model_reads_for_members_only() -> None:
    group = made("neutral", plan=PLAN, other=OTHER)
    assert fills(group, None) == fills(group, "plan") == {0: PLAN, 1: OTHER}
    assert group.bind("plan").base_reads
    assert not group.bind(None).base_reads  # all of its tokens are alike


def test_alora_members_share_under_neutral_alone() -> None:
    adapter = Fake("judge", None, is_alora=True, acting_tokens=(5, 6))
    binding = made("neutral", plan=PLAN, judge=adapter).bind("judge")
    assert (binding.slot, binding.folds, binding.base_reads) == (None, True, True)
    assert [fill.adapter for fill in binding.fills] == [PLAN]
    assert made("isolated", judge=adapter).bind("judge").base_reads
    for policy in ("base", "base+lr", "full"):
        with pytest.raises(AdapterError, match=r"aLoRA adapter 'judge' cannot share under"):
            made(policy, judge=adapter)


@pytest.mark.parametrize(
    ("acting", "prompt", "context"),
    [
        (None, [1, 2, 3], 2),
        (None, [1], 0),
        ((2,), [1, 2, 3, 2, 4], 3),
        ((2, 3), [2, 3, 1, 2, 3], 3),
        ((2, 3), [2, 3, 1, 2], 0),
        ((2, 3), [3, 2], 1),
        ((2, 3), [2], 0),
    ],
)
def test_where_a_turn_begins(
    acting: tuple[int, ...] | None, prompt: list[int], context: int | None
) -> None:
    binding = made("neutral", plan=Fake("plan", "A", acting_tokens=acting)).bind("plan")
    assert binding.context_tokens(prompt) == context


def test_the_same_weights_come_back_to_their_pages_and_others_do_not() -> None:
    group = made(plan=PLAN, act=ACT)
    sharer = group.sharer
    group.leave("plan")
    assert group.sharer == sharer
    group.join({"plan": PLAN}, 2, HINT)
    assert group.sharer == sharer
    group.leave("plan")
    group.join({"plan": OTHER}, 2, HINT)
    assert group.sharer != sharer


def test_a_new_a_beyond_the_slots_is_refused_and_nothing_is_changed() -> None:
    group = made(plan=PLAN, other=OTHER)
    sharer = group.sharer
    with pytest.raises(AdapterError, match=r"with 'third' .* needs 3 LR slots.* have 2; ask for 3"):
        group.join({"third": THIRD}, 2, HINT)
    assert (set(group.members), group.sharer, group.num_slots) == ({"plan", "other"}, sharer, 2)


def test_slots_of_members_that_left_are_given_away_when_there_is_no_other() -> None:
    group = made(plan=PLAN, other=OTHER)
    sharer = group.sharer
    group.leave("other")
    group.join({"third": THIRD}, 2, HINT)
    assert group.sharer != sharer  # the slot's values on old pages are those of another A
    assert fills(group, "plan") == {0: PLAN, 1: THIRD}


def test_under_base_each_member_fills_its_own_slot_only() -> None:
    group = made("base", plan=PLAN, act=ACT)
    assert fills(group, "plan") == {group.bind("plan").slot: PLAN}
    assert group.bind(None).fills == ()


def test_the_base_model_fills_every_slot_and_reads_none() -> None:
    group = made(plan=PLAN, other=OTHER)
    assert fills(group, None) == {0: PLAN, 1: OTHER}
    assert group.bind(None).slot is None


def test_groups_of_equal_contents_do_not_share() -> None:
    """They may grow apart, and then a slot's number means another A in each."""
    groups = groups_of(
        SharingGroup("a", "one", "base+lr"), SharingGroup("b", "two", "base+lr"), one=PLAN, two=PLAN
    )
    assert groups.bind("one", PLAN).sharer != groups.bind("two", PLAN).sharer


def test_an_open_group_takes_whoever_comes_and_is_in_no_other() -> None:
    declared = SharingGroup("closed", "act", "base"), SharingGroup("open", (), "base+lr", open=True)
    groups = groups_of(*declared, plan=PLAN, act=ACT)
    assert groups.bind("plan", PLAN).policy is Policy.BASE_LR
    assert groups.bind("act", ACT).policy is Policy.BASE
    groups.put("other", OTHER, groups.of("other"), 2)
    assert groups.bind("other", OTHER).sharer == groups.bind("plan", PLAN).sharer
    groups.put("third", THIRD, None, 2)
    assert groups.bind("third", THIRD).policy is Policy.ISOLATED
    assert groups.of("third") is None  # a reload keeps it out


def test_weights_that_were_replaced_are_bound_alone() -> None:
    groups = groups_of(SharingGroup("g", ("plan", "act"), "base+lr"), plan=PLAN, act=ACT)
    groups.put("plan", OTHER, groups.of("plan"), 2)
    assert groups.bind("plan", PLAN).sharer == "adapter:plan"
    assert groups.bind("plan", OTHER).sharer == groups.bind("act", ACT).sharer


def test_an_unknown_group_names_near_misses() -> None:
    with pytest.raises(ValueError, match="no sharing group 'agent'; did you mean 'agents'"):
        groups_of(SharingGroup("agents", "plan", "full"), plan=PLAN).named("agent")
