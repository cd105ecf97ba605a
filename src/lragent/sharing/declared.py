"""The sharing groups that a user declares."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from lragent.adapters.errors import AdapterError
from lragent.adapters.names import near_misses
from lragent.sharing.policies import Policy


@dataclass(frozen=True, init=False)
class SharingGroup:
    """Adapters that the user lets share pages.

    Attributes:
        name: for messages and statistics only; never part of a key.
        members: names of adapters.
        policy: what they share, also by its name.
        include_base_model: whether requests without an adapter share too.
        open: whether adapters that are loaded later join unless told otherwise.

    Raises:
        ValueError: a policy of unknown name.
    """

    name: str
    members: tuple[str, ...]
    policy: Policy
    include_base_model: bool = False
    open: bool = False

    def __init__(
        self,
        name: str,
        members: str | Sequence[str],
        policy: Policy | str,
        include_base_model: bool = False,
        open: bool = False,
    ):
        names = (members,) if isinstance(members, str) else tuple(members)
        for field, value in (
            ("name", name), ("members", names), ("policy", Policy(policy)),
            ("include_base_model", include_base_model), ("open", open),
        ):  # fmt: skip
            object.__setattr__(self, field, value)


def check_declarations(groups: Sequence[SharingGroup], loaded: Collection[str]) -> None:
    """Refuse groups that contradict themselves or one another.

    Raises:
        AdapterError: a member that is not ``loaded``, a member named twice or in two groups, a
            closed group without members, two groups of one name, two open groups, or the bare
            base model in two groups.
    """
    group_of: dict[str, str] = {}
    names: set[str] = set()
    for group in groups:
        if group.name in names:
            raise AdapterError(f"two sharing groups are called {group.name!r}; rename one")
        names.add(group.name)
        if not group.members and not group.open:
            raise AdapterError(f"sharing group {group.name!r} has no members; name some adapters")
        for member in group.members:
            if member not in loaded:
                raise AdapterError(
                    f"sharing group {group.name!r} names the adapter {member!r}, which is not "
                    f"loaded{near_misses(member, loaded)}"
                )
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
    if sum(group.open for group in groups) > 1:
        raise AdapterError("two sharing groups are open; adapters loaded later can join only one")
