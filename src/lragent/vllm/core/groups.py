"""A sharing group while adapters come, are replaced and go."""

from __future__ import annotations

from lragent.adapters.errors import AdapterError
from lragent.cache.keys import KeyScope
from lragent.content_hash import ContentHash
from lragent.sharing.policies import Policy
from lragent.vllm.core.adapters import Content
from lragent.vllm.core.bindings import Binding, Fill
from lragent.vllm.core.rows import RowTable
from lragent.vllm.messages import OWN_ROW


class GroupState:
    """Members, slots and identity of one group.

    The identity covers the contents that the group had when its first request came. A member that
    arrives later joins it: it reads what the others wrote, as members do. A member whose weights
    are *replaced* ends it, so that nobody reads what the old weights wrote under a name that means
    other weights now.
    """

    def __init__(self, policy: Policy, include_base_model: bool, slots: int):
        self.policy = policy
        self.include_base_model = include_base_model
        self._capacity = slots
        self._members: dict[str, Content] = {}
        self._digest_of: dict[str, str] = {}  # of names that left, too
        self._generation = 0
        self._sharer: str | None = None
        self._slots: dict[str, int] = {}

    @property
    def members(self) -> dict[str, Content]:
        """Contents of the present members by name."""
        return self._members

    @property
    def sharer(self) -> str:
        """The group's part of the page keys, fixed when it is first asked for."""
        if self._sharer is None:
            content = ContentHash("vllm-sharing-group").text(self.policy.value)
            content.integer(int(self.include_base_model)).integer(self._generation)
            for digest in sorted({c.digest for c in self._members.values()}):
                content.text(digest)
            self._sharer = f"group:{content.hexdigest()}"
        return self._sharer

    @property
    def slot_digests(self) -> set[str]:
        """Slot digests of the present members."""
        return {c.slot_digest for c in self._members.values() if c.slot_digest is not None}

    def join(self, name: str, content: Content) -> None:
        """Take in a member, or replace the weights of one.

        Raises:
            AdapterError: the group cannot hold it; nothing is changed.
        """
        if "k_proj" in content.projections and self.policy.has_slots:
            raise AdapterError(
                f"the adapter {name!r} has LoRA on k_proj, which cannot be shared under policy "
                f"{self.policy.value!r} in vLLM; train it without k_proj, or leave it out of the "
                "groups"
            )
        members = {**self._members, name: content}
        replaced = self._digest_of.get(name, content.digest) != content.digest
        slots = {} if replaced else dict(self._slots)
        keys = {key for c in members.values() if (key := self._slot_key(c)) is not None}
        for key in sorted(keys - slots.keys()):
            slots[key] = len(slots)
        if len(slots) > self._capacity:
            raise AdapterError(
                f"the adapter {name!r} would be the group's {len(slots)}th with an A of its own, "
                f"and pages have {self._capacity} LR slots; start vLLM with the option "
                f'"slots": {len(slots)} or more, or train the adapters on a shared A'
            )
        self._members, self._slots = members, slots
        self._digest_of[name] = content.digest
        if replaced:
            self._generation += 1
            self._sharer = None

    def leave(self, name: str) -> None:
        """Take a member away; pages of the group stay right for the others."""
        self._members.pop(name, None)

    def bind(self, name: str | None, scope: KeyScope, rows: RowTable) -> Binding:
        """The binding of a member, or of the base model in a group that includes it."""
        content = None if name is None else self._members[name]
        own = None if content is None else self._slot_key(content)
        slot = None if own is None else self._slots[own]
        fills: list[Fill] = []
        digests: set[str] = set()
        if slot is not None:
            fills.append(Fill(slot, OWN_ROW))
        if self.policy.fills_all_slots:
            for other in self._members.values():
                key = self._slot_key(other)
                if key is None or key == own or key in digests:
                    continue
                row = rows.row(other)
                if row is not None:
                    fills.append(Fill(self._slots[key], row))
                    digests.add(key)
        return Binding(
            name, content, self.policy, self.sharer, slot, tuple(fills), scope, frozenset(digests)
        )

    def _slot_key(self, content: Content) -> str | None:
        if not self.policy.has_slots or content.slot_digest is None:
            return None
        return content.slot_digest if self.policy is Policy.BASE_LR else content.digest
