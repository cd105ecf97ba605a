"""The engine core's book of adapters: names and ids as vLLM's clients use them, to bindings."""

from __future__ import annotations

import threading
import weakref
from dataclasses import dataclass

from lragent.cache.keys import KeyScope
from lragent.sharing.policies import Policy
from lragent.vllm.config import Options
from lragent.vllm.core.adapters import AdapterStore, Content
from lragent.vllm.core.bindings import Binding, alone
from lragent.vllm.core.groups import GroupState
from lragent.vllm.core.rows import RowTable


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
        self._live: weakref.WeakSet[Binding] = weakref.WeakSet()
        self.rows = RowTable(options.extra_rows, self._digests_in_use)
        self._groups = [
            GroupState(options.policy_of(g), g.include_base_model, options.num_slots)
            for g in options.groups
        ]
        self._group_of = {
            name: state
            for group, state in zip(options.groups, self._groups, strict=True)
            if state.policy is not Policy.ISOLATED
            for name in group.members
        }
        for name, path in options.adapters.items():
            if name in self._group_of:
                self._group_of[name].join(name, store.read(path))

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
            group = self._group_of.get(name)
            if group is not None:
                group.join(name, content)
            self._loaded[int_id] = _Loaded(name, path, content)
            self._newest[name] = int_id
            return content

    def bind(self, name: str, int_id: int, path: str, *, again: bool = False) -> Binding:
        """The binding for a new request.

        An id that is not the newest of its name has weights that were replaced: its requests run
        on, but alone.

        Raises:
            AdapterError: the adapter cannot be served.
        """
        with self._lock:
            content = self.load(name, int_id, path, again=again)
            group = self._group_of.get(name)
            member = None if group is None else group.members.get(name)
            if group is None or member is None or member.digest != content.digest:
                binding = alone(name, content, self._scope)
            else:
                binding = group.bind(name, self._scope, self.rows)
            self._live.add(binding)
            return binding

    def bind_base_model(self) -> Binding:
        """The binding of a request without an adapter."""
        with self._lock:
            for group in self._groups:
                if group.include_base_model and group.policy is not Policy.ISOLATED:
                    binding = group.bind(None, self._scope, self.rows)
                    self._live.add(binding)
                    return binding
            return alone(None, None, self._scope)

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
            if self._newest.get(loaded.name) == int_id:
                del self._newest[loaded.name]
                if (group := self._group_of.get(loaded.name)) is not None:
                    group.leave(loaded.name)
                    if not group.members and not group.include_base_model:
                        gone = self._gone(loaded.content)
                        return Removed(gone, (*self._own_sharer(gone), group.sharer))
            gone = self._gone(loaded.content)
            return Removed(gone, self._own_sharer(gone))

    def summary(self) -> list[dict[str, object]]:
        """The groups for people: policy, members with their digests and slots."""
        with self._lock:
            return [
                {
                    "policy": state.policy.value,
                    "include_base_model": state.include_base_model,
                    "members": {
                        name: {"digest": c.digest, "a_digest": c.slot_digest}
                        for name, c in state.members.items()
                    },
                }
                for state in self._groups
            ]

    def collect(self, content: Content) -> bool:
        """Delete the copy of a content that nothing uses any more; False while something does."""
        with self._lock:
            if self._gone(content) is None:
                return False
            if any(binding.content is content for binding in self._live):
                return False
            self._store.drop(content)
            return True

    def _gone(self, content: Content) -> Content | None:
        used = {loaded.content.digest for loaded in self._loaded.values()}
        used |= {c.digest for state in self._groups for c in state.members.values()}
        return None if content.digest in used else content

    @staticmethod
    def _own_sharer(content: Content | None) -> tuple[str, ...]:
        return () if content is None else (f"adapter:{content.digest}",)

    def _digests_in_use(self) -> set[str]:
        used: set[str] = set()
        for state in self._groups:
            used |= state.slot_digests
        for binding in self._live:
            used |= binding.digests
        return used
