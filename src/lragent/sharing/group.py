"""One sharing group while adapters come, are replaced and go."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Generic

from lragent.adapters.errors import AdapterError
from lragent.content_hash import ContentHash
from lragent.sharing.bindings import Binding, Fill, W, alone
from lragent.sharing.declared import SharingGroup
from lragent.sharing.policies import Policy
from lragent.sharing.slots import can_share, plan_slots, slot_key, slots_needed


class Group(Generic[W]):
    """Members, LR slots and identity of a group.

    The identity covers the contents that the group had when its first request came. A member that
    joins later keeps it: it reads what the others wrote, as members do; where its slot of a page
    is empty it computes the tokens once more and fills it. A member whose weights are *replaced*
    ends the group's pages, so that nobody reads what the old weights wrote under a name that means
    other weights now. Where the base model reads the context, pages depend on the A of the slots
    alone: these are the identity, and other weights on the same A keep the pages.

    Args:
        declared: what the user declared.
        number: its place among the engine's groups. Groups that began with equal contents may
            grow apart, so they never share pages.
    """

    def __init__(self, declared: SharingGroup, number: int):
        self.declared = declared
        self.members: dict[str, W] = {}
        self._number = number
        self._generation = 0
        self._sharer: str | None = None
        self._slots: dict[str, int] = {}
        self._digest_of: dict[str, str] = {}  # of members that left, too

    @property
    def policy(self) -> Policy:
        """What the members share."""
        return self.declared.policy

    @property
    def is_deserted(self) -> bool:
        """Whether nobody can ask for the group's pages now."""
        return not self.members and not self.declared.include_base_model

    @property
    def num_slots(self) -> int:
        """LR slots that each page of the group carries."""
        return slots_needed(self._slots)

    @property
    def sharer(self) -> str:
        """The group's part of the page keys, fixed when it is first asked for."""
        if self._sharer is None:
            content = ContentHash("sharing-group").text(self.policy.value)
            content.integer(int(self.declared.include_base_model))
            content.integer(self._number).integer(self._generation)
            if self.policy.base_reads:
                parts = set(self._slots)
            else:
                parts = {adapter.digest for adapter in self.members.values()}
            for digest in sorted(parts):
                content.text(digest)
            self._sharer = f"group:{content.hexdigest()}"
        return self._sharer

    def join(self, adapters: Mapping[str, W], page_slots: int | None, more_slots: str) -> None:
        """Take members in, or replace their weights.

        Slots of members that left are given away only when there is no other; that ends the
        group's pages.

        Args:
            adapters: the members by name.
            page_slots: LR slots of a page; None while the pages can still be made to fit.
            more_slots: how to get more; ``{}`` stands for their number.

        Raises:
            AdapterError: the pages have too few slots, or an aLoRA adapter would read what other
                adapters wrote; nothing is changed.
        """
        for name, adapter in adapters.items():
            if not can_share(self.policy, adapter):
                raise AdapterError(
                    f"the aLoRA adapter {name!r} cannot share under {self.policy.value!r}: it was "
                    "trained on a context that the base model reads; put it in a group of policy "
                    "'neutral', or leave it out of the groups"
                )
        members = {**self.members, **adapters}
        ends = not self.policy.base_reads and any(
            self._digest_of.get(name, adapter.digest) != adapter.digest
            for name, adapter in adapters.items()
        )
        slots = plan_slots(self.policy, members.values(), None if ends else self._slots)
        if page_slots is not None and slots_needed(slots) > page_slots:
            ends, slots = True, plan_slots(self.policy, members.values())
            if slots_needed(slots) > page_slots:
                raise AdapterError(
                    f"with {', '.join(map(repr, adapters))} the sharing group needs "
                    f"{slots_needed(slots)} LR slots, and pages have {page_slots}; "
                    f"{more_slots.format(slots_needed(slots))}, train the adapters on a shared A, "
                    "or leave it out of the group"
                )
        # First the identity: where an interrupt comes in between, no pages outlive their weights.
        if ends:
            self._generation += 1
            self._sharer = None
        self.members, self._slots = members, slots
        self._digest_of.update((name, adapter.digest) for name, adapter in adapters.items())

    def leave(self, name: str) -> None:
        """Take a member away; pages of the group stay right for the others."""
        self.members.pop(name, None)

    def slot_of(self, adapter: W) -> int | None:
        """The LR slot that a member reads; None when it needs none."""
        key = slot_key(self.policy, adapter) if self.policy.shares_base else None
        return None if key is None else self._slots[key]

    def bind(self, name: str | None) -> Binding[W]:
        """The binding of a member, or of the base model (None) in a group that includes it."""
        adapter = None if name is None else self.members[name]
        if not self.policy.shares_base:
            return alone(name, adapter)
        own = None if adapter is None else slot_key(self.policy, adapter)
        writers = {} if own is None or adapter is None else {own: adapter}
        if self.policy.fills_all_slots:
            for other in self.members.values():
                if (key := slot_key(self.policy, other)) is not None:
                    writers.setdefault(key, other)
        return Binding(
            name=name,
            adapter=adapter,
            policy=self.policy,
            sharer=self.sharer,
            slot=None if adapter is None else self.slot_of(adapter),
            fills=tuple(Fill(self._slots[key], writer) for key, writer in writers.items()),
        )
