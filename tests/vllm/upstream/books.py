"""A pytest plugin for vLLM's own tests: with ``--books`` every KV cache manager has validity bits.

``pytest -p books --books tests/v1/core``. Each request is that of an adapter with an LR slot, in an
engine of policy ``isolated`` with a group, whose integrity is checked after each step. Block hashes
stay vLLM's own, since its tests know their values. What the plugin refuses is skipped with the
reason.
"""

# pyright: reportMissingImports=false

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from lragent.cache.keys import KeyScope
from lragent.sharing import alone
from lragent.vllm.core import hooks
from lragent.vllm.core.bindings import serve
from lragent.vllm.core.block_validity import BlockValidity
from lragent.vllm.core.rows import RowTable
from lragent.vllm.errors import PluginError
from lragent.vllm.frontend.engine_check import check_engine

OPTION = {"policy": "isolated", "groups": [["plan", "act"]], "debug": True}
REFUSED = "refused: "
_SCOPE = KeyScope("model", "float16", "layout", "", "", "")
_ROWS = RowTable(0, lambda: ())


def pytest_addoption(parser: pytest.Parser) -> None:
    """See pytest."""
    parser.addoption("--books", action="store_true")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Spare each test the collection of garbage and the end of process groups: there are none."""
    for item in items:
        item.add_marker("skip_global_cleanup")


def pytest_configure(config: pytest.Config) -> None:
    """Put the books into vLLM, before its tests are imported."""
    if not config.getoption("--books"):
        return
    from vllm.v1.core.kv_cache_manager import KVCacheManager
    from vllm.v1.core.sched.scheduler import Scheduler
    from vllm.v1.request import Request

    for hook in hooks.HOOKS:
        if hook.name in ("Scheduler.__init__", "Scheduler.schedule"):
            hook.install()
    _wrap(Request, _request)
    _wrap(Scheduler, _scheduler)
    _wrap(KVCacheManager, _manager)


def _wrap(owner: Any, make: Any) -> None:
    owner.__init__ = make(owner.__init__)


def _request(stock: Any) -> Any:
    @functools.wraps(stock)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        self.lragent_binding = _binding()
        stock(self, *args, **kwargs)

    return init


def _binding() -> Any:
    weights: Any = SimpleNamespace(
        digest="plan", slot_digest="plan", is_alora=False, acting_tokens=None
    )
    return serve(alone("plan", weights), _SCOPE, _ROWS, "plan")


def _scheduler(stock: Any) -> Any:
    from vllm.config import LoRAConfig

    @functools.wraps(stock)
    def init(self: Any, vllm_config: Any, *args: Any, **kwargs: Any) -> None:
        if vllm_config.lora_config is None:
            vllm_config.lora_config = LoRAConfig(max_lora_rank=8)
        vllm_config.additional_config = {"lragent": OPTION}
        _refuse(check_engine, vllm_config)
        with _books_of_its_own():
            _refuse(functools.partial(stock, self), vllm_config, *args, **kwargs)

    return init


def _manager(stock: Any) -> Any:
    from vllm.v1.kv_cache_interface import FullAttentionSpec

    @functools.wraps(stock)
    def init(self: Any, kv_cache_config: Any, *args: Any, **kwargs: Any) -> None:
        stock(self, kv_cache_config, *args, **kwargs)
        specs = [group.kv_cache_spec for group in kv_cache_config.kv_cache_groups]
        if len(specs) != 1 or type(specs[0]) is not FullAttentionSpec:
            pytest.skip(f"{REFUSED}KV caches of other than plain attention layers")
        if kwargs.get("use_eagle"):
            pytest.skip(f"{REFUSED}speculative decoding; leave it out")
        if not _in_scheduler:
            BlockValidity(self, specs[0].block_size)

    return init


_in_scheduler: list[None] = []


@contextlib.contextmanager
def _books_of_its_own() -> Iterator[None]:
    """A scheduler gives its manager the validity bits itself."""
    _in_scheduler.append(None)
    try:
        yield
    finally:
        _in_scheduler.pop()


def _refuse(call: Any, *args: Any, **kwargs: Any) -> None:
    try:
        call(*args, **kwargs)
    except PluginError as error:
        what = str(error).rpartition("  - ")[2].partition("\n")[0]
        pytest.skip(f"{REFUSED}{what}")
