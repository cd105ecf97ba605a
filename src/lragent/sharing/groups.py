"""All sharing groups of an engine: who is in which, and the bindings that follow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Generic

from lragent.adapters.names import near_misses
from lragent.sharing.bindings import Binding, W, alone
from lragent.sharing.declared import SharingGroup
from lragent.sharing.group import Group


class Groups(Generic[W]):
    """The declared groups with their present members. A name stays in its group when it leaves.

    Args:
        declared: the groups, checked.
        adapters: what is loaded from the start, by name; an open group takes those in no other.
        page_slots: LR slots of a page; None while the pages can still be made to fit.
        more_slots: how a user gets more; ``{}`` stands for their number.

    Raises:
        AdapterError: a group does not fit the pages.
    """

    def __init__(
        self,
        declared: Sequence[SharingGroup],
        adapters: Mapping[str, W],
        page_slots: int | None,
        more_slots: str,
    ):
        self._more_slots = more_slots
        self._groups: dict[str, Group[W]] = {}
        self._group_of: dict[str, Group[W] | None] = {}
        placed = {name for each in declared for name in each.members}
        for number, each in enumerate(declared):
            group: Group[W] = Group(each, number)
            free = adapters.keys() - placed if each.open else set()
            members = {n: a for n, a in adapters.items() if n in each.members or n in free}
            group.join(members, page_slots, more_slots)
            self._groups[each.name] = group
            self._group_of.update(dict.fromkeys((*each.members, *members), group))

    def __iter__(self) -> Iterator[Group[W]]:
        return iter(self._groups.values())

    def summary(self) -> list[dict[str, object]]:
        """The groups for people: policy, and members with their digests and LR slots."""
        return [
            {
                "policy": group.policy.value,
                "include_base_model": group.declared.include_base_model,
                "members": {
                    name: {
                        "digest": adapter.digest,
                        "a_digest": adapter.slot_digest,
                        "slot": group.slot_of(adapter),
                    }
                    for name, adapter in group.members.items()
                },
            }
            for group in self
        ]

    def of(self, name: str) -> Group[W] | None:
        """The group that has, had or declares ``name``; the open one for a new name."""
        if name in self._group_of:
            return self._group_of[name]
        return next((group for group in self if group.declared.open), None)

    def named(self, group: str) -> Group[W]:
        """A group by its own name.

        Raises:
            ValueError: there is none; names the ones that come near.
        """
        if group not in self._groups:
            hint = near_misses(group, self._groups)
            raise ValueError(f"there is no sharing group {group!r}{hint}")
        return self._groups[group]

    def put(self, name: str, adapter: W, group: Group[W] | None, page_slots: int) -> None:
        """Load ``adapter`` as ``name`` into a group, or (None) outside of all.

        Raises:
            AdapterError: the group does not fit the pages; nothing is changed.
        """
        if group is not None:
            group.join({name: adapter}, page_slots, self._more_slots)
        before = self._group_of.get(name)
        if before is not None and before is not group:
            before.leave(name)
        self._group_of[name] = group

    def remove(self, name: str) -> None:
        """Unload ``name``. What was in no group is decided anew when it comes again."""
        group = self._group_of.get(name)
        if group is None:
            self._group_of.pop(name, None)
        else:
            group.leave(name)

    def bind(self, name: str, adapter: W) -> Binding[W]:
        """The binding of requests for ``adapter`` under ``name``.

        Weights that were replaced in their group meanwhile are bound alone.
        """
        group = self._group_of.get(name)
        member = None if group is None else group.members.get(name)
        if group is None or member is None or member.digest != adapter.digest:
            return alone(name, adapter)
        return group.bind(name)

    def bind_base_model(self) -> Binding[W]:
        """The binding of requests without an adapter."""
        group = next((group for group in self if group.declared.include_base_model), None)
        return alone(None, None) if group is None else group.bind(None)
