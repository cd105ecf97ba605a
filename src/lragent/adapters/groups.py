"""Sharing groups: which adapters work on one cache, and which LR slot each of them reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lragent.adapters.digests import ContentHash
from lragent.adapters.errors import AdapterError
from lragent.adapters.model import Adapter
from lragent.adapters.names import near_misses
from lragent.cache.policies import Policy


@dataclass(frozen=True)
class SharingGroup:
    """Adapters that the user lets share pages.

    Attributes:
        name: for messages and statistics only; never part of a key.
        members: names of adapters.
        policy: what they share.
        include_base_model: whether requests without an adapter share too.
    """

    name: str
    members: tuple[str, ...]
    policy: Policy
    include_base_model: bool = False


@dataclass(frozen=True)
class GroupPlan:
    """Slots of a group.

    Attributes:
        digest: SHA-256 (hex) over the policy, the members' contents and whether the bare base
            model takes part; names do not enter.
        slots: slot of each distinct content. The key is the slot digest under ``base+lr`` and
            ``neutral``, where adapters with one A share a slot, and the adapter's digest under
            ``base``, where each adapter keeps the term of its own hidden states.
        slot_of: slot that each member reads; None for one that needs none.
        v_rank: width of the value part of each slot, the largest rank of v_proj in the group.
        k_rank: the same for k_proj.
    """

    digest: str
    slots: Mapping[str, int]
    slot_of: Mapping[str, int | None]
    v_rank: int
    k_rank: int

    @property
    def num_slots(self) -> int:
        """LR slots that each page of the group carries."""
        return max(self.slots.values(), default=-1) + 1


def _slot_key(policy: Policy, adapter: Adapter) -> str | None:
    if not policy.has_slots or adapter.slot_digest is None:
        return None
    return adapter.slot_digest if policy.fills_all_slots else adapter.digest


def _lookup(group: SharingGroup, adapters: Mapping[str, Adapter], member: str) -> Adapter:
    if member not in adapters:
        raise AdapterError(
            f"sharing group {group.name!r} names the adapter {member!r}, which is not loaded"
            f"{near_misses(member, adapters)}"
        )
    return adapters[member]


def check_can_share(name: str, adapter: Adapter, policy: Policy) -> None:
    """Refuse an adapter whose cached term the policy has no place for.

    Raises:
        AdapterError: an aLoRA adapter in a group whose members compute the context themselves.
    """
    if adapter.is_alora and policy not in (Policy.NEUTRAL, Policy.ISOLATED):
        raise AdapterError(
            f"the aLoRA adapter {name!r} cannot share under {policy.value!r}: it was trained on a "
            "context that the base model computes; put it in a group of policy 'neutral', or leave "
            "it out of the groups"
        )


def plan_slots(group: SharingGroup, adapters: Mapping[str, Adapter]) -> GroupPlan:
    """Give the members of a group their LR slots, the same ones whatever the names or the order.

    Under ``isolated`` no page is read by two adapters, so every one of them uses slot 0 of its
    own pages.

    Raises:
        AdapterError: a member that is not in ``adapters``, or that cannot share in this way.
    """
    members = {name: _lookup(group, adapters, name) for name in group.members}
    for name, adapter in members.items():
        check_can_share(name, adapter, group.policy)
    keys = {name: _slot_key(group.policy, adapter) for name, adapter in members.items()}
    distinct = sorted({key for key in keys.values() if key is not None})
    shared = group.policy is not Policy.ISOLATED
    slots = {key: index if shared else 0 for index, key in enumerate(distinct)}
    content = ContentHash("sharing-group").text(group.policy.value)
    content.integer(int(group.include_base_model))
    for digest in sorted({adapter.digest for adapter in members.values()}):
        content.text(digest)
    with_slot = [members[name] for name, key in keys.items() if key is not None]
    return GroupPlan(
        digest=content.hexdigest(),
        slots=slots,
        slot_of={name: None if key is None else slots[key] for name, key in keys.items()},
        v_rank=max((adapter.rank_of("v_proj") for adapter in with_slot), default=0),
        k_rank=max((adapter.rank_of("k_proj") for adapter in with_slot), default=0),
    )


def validate_groups(groups: Sequence[SharingGroup], adapters: Mapping[str, Adapter]) -> None:
    """Refuse groups that contradict themselves or one another.

    Raises:
        AdapterError: an unknown member, a member named twice or in two groups, an empty group, two
            groups of one name, or the bare base model in two groups.
    """
    group_of: dict[str, str] = {}
    names: set[str] = set()
    for group in groups:
        if group.name in names:
            raise AdapterError(f"two sharing groups are called {group.name!r}; rename one")
        names.add(group.name)
        if not group.members:
            raise AdapterError(f"sharing group {group.name!r} has no members; name some adapters")
        for member in group.members:
            _lookup(group, adapters, member)
            if group_of.get(member) == group.name:
                raise AdapterError(
                    f"sharing group {group.name!r} names the adapter {member!r} twice; name it once"
                )
            if member in group_of:
                raise AdapterError(
                    f"the adapter {member!r} is in the sharing groups {group_of[member]!r} and "
                    f"{group.name!r}; an adapter belongs to one group at most"
                )
            group_of[member] = group.name
    with_base = [group.name for group in groups if group.include_base_model]
    if len(with_base) > 1:
        raise AdapterError(
            "the bare base model is in the sharing groups "
            + " and ".join(map(repr, with_base))
            + "; it belongs to one group at most"
        )
