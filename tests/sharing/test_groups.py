from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from tests.adapters.factory import make_adapter
from transformers import LlamaForCausalLM

from lragent.adapters import Adapter, AdapterError, read_adapter
from lragent.sharing import Policy, SharingGroup
from lragent.sharing.declared import check_declarations
from lragent.sharing.group import Group
from lragent.sharing.slots import plan_slots, slots_needed


@pytest.fixture(scope="module")
def adapters(
    tmp_path_factory: pytest.TempPathFactory, model: LlamaForCausalLM
) -> dict[str, Adapter]:
    """Three on plan's A; two ordinary ones, of which one is wider; one on q_proj only."""
    root: Path = tmp_path_factory.mktemp("adapters")
    plan = make_adapter(root / "plan", model, seed=1)
    folders = {
        "plan": plan,
        "act": make_adapter(root / "act", model, seed=2, share_a_with=plan),
        "reflect": make_adapter(root / "reflect", model, seed=3, share_a_with=plan),
        "other": make_adapter(root / "other", model, seed=4),
        "wide": make_adapter(root / "wide", model, seed=5, rank=8, targets=["k_proj", "v_proj"]),
        "query": make_adapter(root / "query", model, seed=6, targets=["q_proj"]),
    }
    return {name: read_adapter(folder) for name, folder in folders.items()}


def group(*members: str, policy: Policy = Policy.BASE_LR, **options: bool) -> SharingGroup:
    return SharingGroup("qa", members, policy, **options)


def formed(declared: SharingGroup, adapters: Mapping[str, Adapter]) -> Group[Adapter]:
    made: Group[Adapter] = Group(declared, 0)
    made.join({name: adapters[name] for name in declared.members}, None, "")
    return made


def slot_of(group: Group[Adapter], *names: str) -> list[int | None]:
    return [group.bind(name).slot for name in names]


def test_shared_a_takes_one_slot(adapters: Mapping[str, Adapter]) -> None:
    three = [adapters[name] for name in ("plan", "act", "reflect")]
    assert plan_slots(Policy.BASE_LR, three) == {adapters["plan"].slot_digest: 0}
    made = formed(group("plan", "act", "reflect"), adapters)
    assert slot_of(made, "plan", "act", "reflect") == [0, 0, 0]
    assert made.num_slots == 1


def test_ordinary_adapters_take_one_slot_for_each_a(adapters: Mapping[str, Adapter]) -> None:
    made = formed(group("plan", "act", "other", "wide", "query"), adapters)
    slots = plan_slots(Policy.BASE_LR, made.members.values())
    assert made.num_slots == slots_needed(slots) == 3
    assert list(slots) == sorted(slots)
    assert sorted(slots.values()) == [0, 1, 2]
    plan, act, query = slot_of(made, "plan", "act", "query")
    assert plan == act
    assert query is None


def test_under_base_each_adapter_has_its_own_slot(adapters: Mapping[str, Adapter]) -> None:
    again = {**adapters, "twin": adapters["plan"]}
    made = formed(group("plan", "act", "reflect", "twin", policy=Policy.BASE), again)
    assert made.num_slots == 3
    plan, act, reflect, twin = slot_of(made, "plan", "act", "reflect", "twin")
    assert twin == plan
    assert len({plan, act, reflect}) == 3
    slots = plan_slots(Policy.BASE, made.members.values())
    assert set(slots) == {adapters[name].digest for name in ("plan", "act", "reflect")}


def test_full_has_no_slots(adapters: Mapping[str, Adapter]) -> None:
    made = formed(group("plan", "other", policy=Policy.FULL), adapters)
    assert slot_of(made, "plan", "other") == [None, None]
    assert made.num_slots == 0


def test_isolated_pages_need_one_slot(adapters: Mapping[str, Adapter]) -> None:
    made = formed(group("plan", "other", "query", policy=Policy.ISOLATED), adapters)
    assert slot_of(made, "plan", "other", "query") == [0, 0, None]
    assert made.num_slots == 1


@pytest.mark.parametrize("policy", [Policy.BASE, Policy.BASE_LR])
def test_slots_do_not_depend_on_names_or_order(
    adapters: Mapping[str, Adapter], policy: Policy
) -> None:
    first = formed(group("plan", "other", "wide", policy=policy), adapters)
    renamed = {"z": adapters["plan"], "a": adapters["other"], "m": adapters["wide"]}
    second = formed(SharingGroup("x", ("a", "m", "z"), policy), renamed)
    assert slot_of(second, "z", "a", "m") == slot_of(first, "plan", "other", "wide")
    assert second.sharer == first.sharer


def test_what_the_group_digest_covers(adapters: Mapping[str, Adapter]) -> None:
    groups = [
        group("plan", "act"),
        group("plan", "act", policy=Policy.BASE),
        group("plan", "act", policy=Policy.FULL),
        group("plan", "act", include_base_model=True),
        group("plan", "reflect"),
        group("plan", "act", "reflect"),
    ]
    assert len({formed(each, adapters).sharer for each in groups}) == len(groups)


def test_same_name_with_other_weights_is_another_group(adapters: Mapping[str, Adapter]) -> None:
    reloaded = {**adapters, "act": adapters["reflect"]}
    before = formed(group("plan", "act"), adapters)
    assert formed(group("plan", "act"), reloaded).sharer != before.sharer


def test_unknown_member(adapters: Mapping[str, Adapter]) -> None:
    with pytest.raises(AdapterError, match=r"'qa' names the adapter 'reflct'.*'reflect'\?"):
        check_declarations([group("plan", "reflct")], adapters)


@pytest.mark.parametrize(
    ("groups", "part"),
    [
        ([("a", ("plan", "plan"))], "'a' names the adapter 'plan' twice"),
        ([("a", ("plan",)), ("b", ("act", "plan"))], "'plan' is in the sharing groups 'a' and 'b'"),
        ([("a", ("plan",)), ("a", ("act",))], "two sharing groups are called 'a'"),
        ([("a", ())], "'a' has no members"),
    ],
)
def test_groups_that_contradict_themselves(
    adapters: Mapping[str, Adapter], groups: list[tuple[str, tuple[str, ...]]], part: str
) -> None:
    made = [SharingGroup(name, members, Policy.BASE_LR) for name, members in groups]
    with pytest.raises(AdapterError) as caught:
        check_declarations(made, adapters)
    assert part in str(caught.value)


def test_the_base_model_belongs_to_one_group(adapters: Mapping[str, Adapter]) -> None:
    first = SharingGroup("a", ("plan",), Policy.BASE, include_base_model=True)
    second = SharingGroup("b", ("act",), Policy.BASE, include_base_model=True)
    with pytest.raises(AdapterError, match="'a' and 'b'; it belongs to one group"):
        check_declarations([first, second], adapters)


def test_one_group_may_be_open(adapters: Mapping[str, Adapter]) -> None:
    both = [SharingGroup(name, (), Policy.BASE, open=True) for name in ("a", "b")]
    with pytest.raises(AdapterError, match="two sharing groups are open"):
        check_declarations(both, adapters)


def test_good_groups(adapters: Mapping[str, Adapter]) -> None:
    second = SharingGroup("b", ("other",), Policy.BASE, include_base_model=True)
    check_declarations([group("plan", "act"), second], adapters)
    check_declarations([], adapters)


def test_a_policy_and_a_member_may_be_given_as_text() -> None:
    declared = SharingGroup("g", "plan", "base+lr")
    assert (declared.policy, declared.members) == (Policy.BASE_LR, ("plan",))
    assert SharingGroup("g", ["plan", "act"], "full").members == ("plan", "act")
    with pytest.raises(ValueError, match="'shared' is none of"):
        SharingGroup("g", ("plan",), "shared")
