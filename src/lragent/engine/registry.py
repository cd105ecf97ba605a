"""Which adapter goes by which name now, and how its requests use the cache."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from lragent.adapters.errors import AdapterError
from lragent.adapters.model import Adapter
from lragent.adapters.names import near_misses
from lragent.adapters.trained_for import warn_of_other_policy
from lragent.cache.layout import PageLayout
from lragent.engine.errors import UnknownAdapterError
from lragent.sharing import Binding, Groups, SharingGroup
from lragent.sharing.declared import check_declarations
from lragent.sharing.group import Group


class AdapterRegistry:
    """Names, adapters and the bindings that follow from the groups; changes are all or nothing."""

    def __init__(self, adapters: Mapping[str, Adapter], groups: Sequence[SharingGroup]):
        check_declarations(groups, adapters)
        self._adapters = dict(adapters)
        self._groups: Groups[Adapter] = Groups(
            groups, adapters, None, "start the engine with lr_slots={}"
        )
        self._bindings = self._bind()

    @property
    def adapters(self) -> Mapping[str, Adapter]:
        """Loaded adapters by name."""
        return self._adapters

    @property
    def bindings(self) -> Collection[Binding[Adapter]]:
        """The current bindings of all adapters and of the base model."""
        return self._bindings.values()

    @property
    def sharers(self) -> set[str]:
        """Whose pages somebody can ask for now."""
        return {binding.sharer for binding in self.bindings}

    def binding(self, name: str | None) -> Binding[Adapter]:
        """The binding under `name`, None for the base model.

        Raises:
            UnknownAdapterError: with the names that come near.
        """
        try:
            return self._bindings[name]
        except KeyError:
            hint = near_misses(str(name), self._adapters)
            raise UnknownAdapterError(f"no adapter named {name!r} is loaded{hint}") from None

    def groups(self) -> list[dict[str, object]]:
        """See `Groups.summary`."""
        return self._groups.summary()

    def needs(self) -> tuple[int, int, int]:
        """`(slots, value rank, key rank)` that the pages must offer."""
        bound = [b for b in self.bindings if b.adapter is not None and not b.folds]
        adapters = [b.adapter for b in bound if b.adapter is not None]
        slots = [group.num_slots for group in self._groups]
        return (
            max([int(any(b.slot is not None for b in bound)), *slots]),
            max((a.rank_of("v_proj") for a in adapters), default=0),
            max((a.rank_of("k_proj") for a in adapters), default=0),
        )

    def group_for(self, name: str, group: str | None, share: bool) -> Group[Adapter] | None:
        """The group that a new adapter joins: the named one, else its own or the open one.

        Raises:
            ValueError: the named group is unknown, or `share` is False and a group is named.
        """
        if group is not None:
            if not share:
                raise ValueError(f"share=False contradicts group={group!r}; leave one of them out")
            return self._groups.named(group)
        return self._groups.of(name) if share else None

    def load(
        self, name: str, adapter: Adapter, group: Group[Adapter] | None, layout: PageLayout
    ) -> None:
        """Put `adapter` under `name` and into a group, in place of what was there.

        Raises:
            AdapterError: the pages have too few or too narrow slots; nothing is changed.
        """
        if not adapter.is_alora and (group is None or group.policy.has_slots):
            _check_fits(adapter, layout)
        self._groups.put(name, adapter, group, layout.slots)
        self._adapters[name] = adapter
        self._bindings = self._bind()

    def current_group(self, name: str) -> Group[Adapter] | None:
        """The group that the adapter under `name` is in.

        Raises:
            UnknownAdapterError: nothing is loaded under that name.
        """
        self.binding(name)
        return self._groups.of(name)

    def unload(self, name: str) -> None:
        """Take `name` away.

        Raises:
            UnknownAdapterError: nothing is loaded under that name.
        """
        self.binding(name)
        self._groups.remove(name)
        del self._adapters[name]
        self._bindings = self._bind()

    def _bind(self) -> dict[str | None, Binding[Adapter]]:
        bindings: dict[str | None, Binding[Adapter]] = {None: self._groups.bind_base_model()}
        for name, adapter in self._adapters.items():
            bindings[name] = self._groups.bind(name, adapter)
            warn_of_other_policy(name, adapter, bindings[name].policy.value)
        return bindings


def _check_fits(adapter: Adapter, layout: PageLayout) -> None:
    """Refuse an adapter that needs a slot where pages have none, or a wider one than they have.

    Raises:
        AdapterError: says with which options to start the engine.
    """
    if adapter.slot_digest is not None and not layout.slots:
        raise AdapterError(
            f"{adapter.path} needs an LR slot and the pages have none; start the engine with "
            "lr_slots=1, or load it into the group that shares under policy 'full'"
        )
    v_rank, k_rank = adapter.rank_of("v_proj"), adapter.rank_of("k_proj")
    if v_rank > layout.v_rank or k_rank > layout.k_rank:
        raise AdapterError(
            f"{adapter.path} needs LR slots of rank {v_rank} for v_proj and {k_rank} for k_proj, "
            f"the pages hold {layout.v_rank} and {layout.k_rank}; start the engine with "
            f"max_lora_rank={max(v_rank, k_rank)} and an adapter of that kind"
        )
