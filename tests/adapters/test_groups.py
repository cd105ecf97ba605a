from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from tests.adapters.factory import make_adapter, tiny_llama
from transformers import LlamaForCausalLM

from lragent.adapters import (
    Adapter,
    AdapterError,
    SharingGroup,
    plan_slots,
    read_adapter,
    validate_groups,
)
from lragent.cache.policies import Policy


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


def test_shared_a_takes_one_slot(adapters: Mapping[str, Adapter]) -> None:
    plan = plan_slots(group("plan", "act", "reflect"), adapters)
    assert plan.slots == {adapters["plan"].slot_digest: 0}
    assert plan.slot_of == {"plan": 0, "act": 0, "reflect": 0}
    assert (plan.num_slots, plan.v_rank, plan.k_rank) == (1, 4, 0)


def test_ordinary_adapters_take_one_slot_for_each_a(adapters: Mapping[str, Adapter]) -> None:
    plan = plan_slots(group("plan", "act", "other", "wide", "query"), adapters)
    assert plan.num_slots == 3
    assert list(plan.slots) == sorted(plan.slots)
    assert sorted(plan.slots.values()) == [0, 1, 2]
    assert plan.slot_of["plan"] == plan.slot_of["act"]
    assert plan.slot_of["query"] is None
    assert (plan.v_rank, plan.k_rank) == (8, 8)


def test_under_base_each_adapter_has_its_own_slot(adapters: Mapping[str, Adapter]) -> None:
    again = {**adapters, "twin": adapters["plan"]}
    plan = plan_slots(group("plan", "act", "reflect", "twin", policy=Policy.BASE), again)
    assert plan.num_slots == 3
    assert plan.slot_of["twin"] == plan.slot_of["plan"]
    assert len(set(plan.slot_of.values())) == 3
    assert set(plan.slots) == {adapters[name].digest for name in ("plan", "act", "reflect")}


def test_full_has_no_slots(adapters: Mapping[str, Adapter]) -> None:
    plan = plan_slots(group("plan", "other", policy=Policy.FULL), adapters)
    assert plan.slot_of == {"plan": None, "other": None}
    assert (plan.num_slots, plan.v_rank, plan.k_rank) == (0, 0, 0)


def test_isolated_pages_need_one_slot(adapters: Mapping[str, Adapter]) -> None:
    plan = plan_slots(group("plan", "other", "query", policy=Policy.ISOLATED), adapters)
    assert plan.slot_of == {"plan": 0, "other": 0, "query": None}
    assert plan.num_slots == 1


@pytest.mark.parametrize("policy", [Policy.BASE, Policy.BASE_LR])
def test_slots_do_not_depend_on_names_or_order(
    adapters: Mapping[str, Adapter], policy: Policy
) -> None:
    first = plan_slots(group("plan", "other", "wide", policy=policy), adapters)
    renamed = {"z": adapters["plan"], "a": adapters["other"], "m": adapters["wide"]}
    second = plan_slots(SharingGroup("x", ("a", "m", "z"), policy), renamed)
    assert second.slots == first.slots
    assert second.digest == first.digest
    assert second.slot_of["z"] == first.slot_of["plan"]


def test_what_the_group_digest_covers(adapters: Mapping[str, Adapter]) -> None:
    groups = [
        group("plan", "act"),
        group("plan", "act", policy=Policy.BASE),
        group("plan", "act", policy=Policy.FULL),
        group("plan", "act", include_base_model=True),
        group("plan", "reflect"),
        group("plan", "act", "reflect"),
    ]
    assert len({plan_slots(each, adapters).digest for each in groups}) == len(groups)


def test_same_name_with_other_weights_is_another_group(adapters: Mapping[str, Adapter]) -> None:
    reloaded = {**adapters, "act": adapters["reflect"]}
    before = plan_slots(group("plan", "act"), adapters)
    assert plan_slots(group("plan", "act"), reloaded).digest != before.digest


def test_unknown_member(adapters: Mapping[str, Adapter]) -> None:
    for act in (
        lambda: plan_slots(group("plan", "reflct"), adapters),
        lambda: validate_groups([group("plan", "reflct")], adapters),
    ):
        with pytest.raises(AdapterError, match=r"'qa' names the adapter 'reflct'.*'reflect'\?"):
            act()


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
        validate_groups(made, adapters)
    assert part in str(caught.value)


def test_the_base_model_belongs_to_one_group(adapters: Mapping[str, Adapter]) -> None:
    first = SharingGroup("a", ("plan",), Policy.BASE, include_base_model=True)
    second = SharingGroup("b", ("act",), Policy.BASE, include_base_model=True)
    with pytest.raises(AdapterError, match="'a' and 'b'; it belongs to one group"):
        validate_groups([first, second], adapters)


def test_good_groups(adapters: Mapping[str, Adapter]) -> None:
    second = SharingGroup("b", ("other",), Policy.BASE, include_base_model=True)
    validate_groups([group("plan", "act"), second], adapters)
    validate_groups([], adapters)


def test_the_factory_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    model = tiny_llama()
    before = {name: type(module) for name, module in model.named_modules()}
    make_adapter(tmp_path / "a", model)
    assert {name: type(module) for name, module in model.named_modules()} == before
