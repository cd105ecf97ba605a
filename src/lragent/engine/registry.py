"""Names, groups and the bindings that follow from them; changes are all or nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from lragent.adapters.errors import AdapterError
from lragent.adapters.groups import GroupPlan, SharingGroup, plan_slots, validate_groups
from lragent.adapters.model import Adapter
from lragent.adapters.names import near_misses
from lragent.cache.layout import PageLayout
from lragent.cache.policies import Policy
from lragent.engine.bindings import Binding, alone, in_group
from lragent.engine.errors import UnknownAdapterError


@dataclass
class _GroupState:
    """A declared group, the plan in force, and the weights that the plan was made from.

    The plan outlives an unload, since pages of the group stay right for the members that remain.
    """

    group: SharingGroup
    plan: GroupPlan
    planned: dict[str, str] = field(default_factory=dict)


class AdapterRegistry:
    """Which adapter goes by which name now, and how its requests use the cache."""

    def __init__(self, adapters: Mapping[str, Adapter], groups: Sequence[SharingGroup]):
        validate_groups(groups, adapters)
        self._adapters = dict(adapters)
        self._groups = {
            group.name: _GroupState(
                group, plan_slots(group, adapters), {m: adapters[m].digest for m in group.members}
            )
            for group in groups
        }
        self._bindings = self._bind()

    @property
    def adapters(self) -> Mapping[str, Adapter]:
        """Loaded adapters by name."""
        return self._adapters

    @property
    def groups(self) -> tuple[SharingGroup, ...]:
        """Declared groups with their present members."""
        return tuple(state.group for state in self._groups.values())

    @property
    def bindings(self) -> Iterable[Binding]:
        """The current bindings of all adapters and of the base model."""
        return self._bindings.values()

    def binding(self, name: str | None) -> Binding:
        """The binding under `name`, None for the base model.

        Raises:
            UnknownAdapterError: with the names that come near.
        """
        try:
            return self._bindings[name]
        except KeyError:
            hint = near_misses(str(name), self._adapters)
            raise UnknownAdapterError(f"no adapter named {name!r} is loaded{hint}") from None

    def needs(self) -> tuple[int, int, int]:
        """`(slots, value rank, key rank)` that the pages must offer."""
        adapters = list(self._adapters.values())
        slotted = [a for a in adapters if a.slot_digest is not None]
        folded = {
            m for s in self._groups.values() if s.group.policy is Policy.FULL
            for m in s.group.members
        }  # fmt: skip
        unfolded = [
            a for name, a in self._adapters.items() if name not in folded and not a.is_alora
        ]
        slots = [s.plan.num_slots for s in self._groups.values()]
        alone_slots = 1 if any(a in slotted for a in unfolded) else 0
        return (
            max([alone_slots, *slots]),
            max((a.rank_of("v_proj") for a in unfolded), default=0),
            max((a.rank_of("k_proj") for a in unfolded), default=0),
        )

    def load(self, name: str, adapter: Adapter, group: str | None, layout: PageLayout) -> None:
        """Put `adapter` under `name`, in place of what was there; join or stay in a group.

        Raises:
            AdapterError: the pages have too few or too narrow slots; nothing is changed.
            ValueError: the group is unknown; nothing is changed.
        """
        target = group if group is not None else self.group_of(name)
        if target is not None and target not in self._groups:
            raise ValueError(
                f"there is no sharing group {target!r}{near_misses(target, self._groups)}"
            )
        trial = self._copy()
        trial._adapters[name] = adapter
        for state in trial._groups.values():
            joins = state.group.name == target
            if joins or name in state.group.members:
                trial._replan(state, name, joins)
        trial.check_fits(layout)
        trial._bindings = trial._bind()
        self._adapters, self._groups, self._bindings = (
            trial._adapters,
            trial._groups,
            trial._bindings,
        )

    def unload(self, name: str) -> Binding:
        """Take `name` away and return the binding that it had.

        Raises:
            UnknownAdapterError: nothing is loaded under that name.
        """
        if name not in self._adapters:
            self.binding(name)
        gone = self._bindings[name]
        del self._adapters[name]
        self._bindings = self._bind()
        return gone

    def group_of(self, name: str) -> str | None:
        """Name of the group that declares `name` as a member."""
        return next((g for g, s in self._groups.items() if name in s.group.members), None)

    def shares(self, sharer: str) -> bool:
        """Whether any current binding still uses the pages of `sharer`."""
        return any(binding.sharer == sharer for binding in self._bindings.values())

    def _copy(self) -> AdapterRegistry:
        trial = object.__new__(AdapterRegistry)
        trial._adapters = dict(self._adapters)
        trial._groups = {
            name: _GroupState(state.group, state.plan, dict(state.planned))
            for name, state in self._groups.items()
        }
        return trial

    def _replan(self, state: _GroupState, name: str, joins: bool) -> None:
        members = tuple(m for m in state.group.members if m != name and m in self._adapters)
        if joins:
            members = (*members, name)
            if state.planned.get(name) == self._adapters[name].digest:
                return  # the same weights come back: the pages of the group are theirs
        group = state.group
        state.group = SharingGroup(group.name, members, group.policy, group.include_base_model)
        state.plan = plan_slots(state.group, self._adapters)
        state.planned = {m: self._adapters[m].digest for m in members}

    def check_fits(self, layout: PageLayout) -> None:
        """Refuse adapters that need more or wider slots than `layout` has.

        Raises:
            AdapterError: says with which options to start the engine.
        """
        slots, v_rank, k_rank = self.needs()
        if slots > layout.slots:
            raise AdapterError(
                f"the adapters need {slots} LR slots and the pages have {layout.slots}; start the "
                f"engine with lr_slots={slots}, or train the adapters on a shared A"
            )
        if v_rank > layout.v_rank or k_rank > layout.k_rank:
            raise AdapterError(
                f"the adapters need LR slots of rank {v_rank} for v_proj and {k_rank} for k_proj, "
                f"the pages hold {layout.v_rank} and {layout.k_rank}; start the engine with "
                f"max_lora_rank={max(v_rank, k_rank)} and an adapter of that kind"
            )

    def _bind(self) -> dict[str | None, Binding]:
        bindings: dict[str | None, Binding] = {None: alone(None, None)}
        bindings |= {name: alone(name, adapter) for name, adapter in self._adapters.items()}
        for state in self._groups.values():
            present = {m: self._adapters[m] for m in state.group.members if m in self._adapters}
            for member in present:
                bindings[member] = in_group(member, state.group, state.plan, present)
            if state.group.include_base_model:
                bindings[None] = in_group(None, state.group, state.plan, present)
        return bindings
