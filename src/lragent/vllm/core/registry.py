"""The engine core's book of adapters: names and ids as vLLM's clients use them, to bindings."""

from __future__ import annotations

import threading
import weakref
from dataclasses import dataclass

from lragent.adapters.errors import AdapterError
from lragent.adapters.trained_for import warn_of_other_policy
from lragent.cache.keys import KeyScope
from lragent.sharing import Binding, Groups, SharingGroup, alone
from lragent.sharing.group import Group
from lragent.sharing.policies import Policy
from lragent.vllm.core.adapters import AdapterStore, Content
from lragent.vllm.core.bindings import ServedBinding, serve
from lragent.vllm.core.rows import RowTable
from lragent.vllm.options import Options


@dataclass(frozen=True)
class _Loaded:
    name: str
    path: str
    content: Content


@dataclass(frozen=True)
class Removed:
    """What an unload leaves without an owner.

    Attributes:
        content: the weights, None when they are loaded under another id too.
        sharers: whose pages nobody can ask for any more.
    """

    content: Content | None
    sharers: tuple[str, ...]


class AdapterRegistry:
    """Who is loaded, under which id, and in which group. Safe to use from several threads.

    Args:
        options: the plugin's options.
        store: reads adapters.
        scope: what all page keys of the engine have in common.
    """

    def __init__(self, options: Options, store: AdapterStore, scope: KeyScope):
        self._store = store
        self._scope = scope
        self._loaded: dict[int, _Loaded] = {}
        self._newest: dict[str, int] = {}
        self._lock = threading.RLock()
        self._live: weakref.WeakSet[ServedBinding] = weakref.WeakSet()
        self.rows = RowTable(options.extra_rows, self._digests_in_use)
        self._page_slots = options.num_slots
        self._key_lora = options.key_lora
        self._measured = {name: g.measured for g in options.groups for name in g.members}
        self._groups: Groups[Content] = Groups(
            [
                SharingGroup(
                    str(i), g.members, options.policy_of(g), options.includes_base_model(g)
                )
                for i, g in enumerate(options.groups)
            ],
            {name: store.read(path) for name, path in options.adapters.items()},
            options.num_slots,
            'start vLLM with the option "slots": {} or more',
        )
        for group in self._groups:
            for name, content in group.members.items():
                self._check(name, content, group)

    def load(self, name: str, int_id: int, path: str, *, again: bool = False) -> Content:
        """The content that an id stands for, read when the id is new or ``again`` is set.

        Raises:
            AdapterError: it cannot be served; nothing is changed.
        """
        with self._lock:
            known = self._loaded.get(int_id)
            if known is not None and (known.name, known.path) == (name, path) and not again:
                return known.content
            content = self._store.read(path)
            group = self._groups.of(name)
            self._check(name, content, group)
            self._groups.put(name, content, group, self._page_slots)
            policy = Policy.ISOLATED if group is None else group.policy
            warn_of_other_policy(name, content, policy.value)
            self._loaded[int_id] = _Loaded(name, path, content)
            self._newest[name] = int_id
            return content

    def bind(self, name: str, int_id: int, path: str, *, again: bool = False) -> ServedBinding:
        """The binding for a new request.

        An id that is not the newest of its name has weights that were replaced: its requests run
        on, but alone.

        Raises:
            AdapterError: the adapter cannot be served.
        """
        with self._lock:
            content = self.load(name, int_id, path, again=again)
            return self._serve(self._groups.bind(name, content))

    def bind_base_model(self) -> ServedBinding:
        """The binding of a request without an adapter."""
        with self._lock:
            return self._serve(self._groups.bind_base_model())

    def content_of(self, int_id: int) -> Content | None:
        """The content under a client's id, None when nothing is loaded under it."""
        loaded = self._loaded.get(int_id)
        return None if loaded is None else loaded.content

    def ids_of(self, contents: set[int]) -> set[int]:
        """Clients' ids of the contents with the given numbers."""
        with self._lock:
            return {i for i, loaded in self._loaded.items() if loaded.content.int_id in contents}

    def unload(self, int_id: int) -> Removed:
        """Take an id away."""
        with self._lock:
            loaded = self._loaded.pop(int_id, None)
            if loaded is None:
                return Removed(None, ())
            deserted: tuple[str, ...] = ()
            if self._newest.get(loaded.name) == int_id:
                del self._newest[loaded.name]
                group = self._groups.of(loaded.name)
                self._groups.remove(loaded.name)
                if group is not None and group.is_deserted:
                    deserted = (group.sharer,)
            gone = self._gone(loaded.content)
            own = () if gone is None else (alone(loaded.name, gone).sharer,)
            return Removed(gone, (*own, *deserted))

    def summary(self) -> list[dict[str, object]]:
        """See `Groups.summary`."""
        with self._lock:
            return self._groups.summary()

    def collect(self, content: Content) -> bool:
        """Delete the copy of a content that nothing uses any more; False while something does."""
        with self._lock:
            if self._gone(content) is None:
                return False
            if any(binding.adapter is content for binding in self._live):
                return False
            self._store.drop(content)
            return True

    def _serve(self, binding: Binding[Content]) -> ServedBinding:
        served = serve(binding, self._scope, self.rows, self._shared_as(binding))
        self._live.add(served)
        return served

    def _shared_as(self, binding: Binding[Content]) -> str | None:
        if binding.sharer == alone(binding.name, binding.adapter).sharer:
            return binding.name
        [members] = [
            group.declared.members
            for group in self._groups
            if binding.name in group.declared.members
            or (binding.name is None and group.declared.include_base_model)
        ]
        return "+".join(sorted(members))

    def _gone(self, content: Content) -> Content | None:
        used = {loaded.content.digest for loaded in self._loaded.values()}
        used |= {c.digest for group in self._groups for c in group.members.values()}
        return None if content.digest in used else content

    def _digests_in_use(self) -> set[str | None]:
        used = {c.slot_digest for group in self._groups for c in group.members.values()}
        return used.union(*(binding.row_digests for binding in self._live))

    def _check(self, name: str, content: Content, group: Group[Content] | None) -> None:
        """Refuse weights that were not measured, and LoRA on keys in pages without room for it.

        Raises:
            AdapterError: says what to do.
        """
        measured = self._measured.get(name)
        if measured and content.digest not in measured:
            raise AdapterError(
                f"the weights of adapter {name!r} are not those that its group's policy was "
                "measured for; measure again with lragent eval --save, or name a policy"
            )
        if self._key_lora or group is None or content.is_alora:
            return  # an aLoRA adapter's own keys hold its term, and pages of its turn are private
        if group.policy.shares_base and group.policy.has_slots and "k_proj" in content.projections:
            raise AdapterError(
                f"the adapter {name!r} has LoRA on k_proj, for which pages have no room; start "
                'vLLM with the option "key_lora": true, train it without k_proj, or leave it out '
                "of the groups"
            )
