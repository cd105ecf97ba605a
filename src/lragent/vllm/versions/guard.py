"""Whether the installed vLLM is one that the plugin knows, and still as the plugin knows it.

Two questions: does vLLM have what the plugin calls and reads, and do vLLM's calls fit what the
plugin has put in their place?
"""

# pyright: reportMissingImports=false

from __future__ import annotations

import importlib
import importlib.util
import inspect
from collections.abc import Iterable, Iterator
from typing import Any, get_args

from lragent.vllm.frontend.engine_check import CHECKS
from lragent.vllm.patching import Hook
from lragent.vllm.versions.symbols import FIELDS, SYMBOLS, Fields, Symbol

OLDEST, NEWEST = "0.29", "0.33"
"""The minor versions of vLLM that are served, and all between them."""

_OBJECTS: tuple[tuple[str, str, str, str], ...] = (
    *(
        ("vllm.v1.core.kv_cache_manager", f"KVCacheManager.{name}",
         "lragent.vllm.core.block_validity", f"BlockValidity.{name}")
        for name in ("get_computed_blocks", "allocate_slots", "cache_blocks", "free",
                     "pop_blocks_for_free", "reset_prefix_cache")
    ),
    ("vllm.v1.core.kv_cache_coordinator", "KVCacheCoordinator.cache_blocks",
     "lragent.vllm.core.block_validity", "BlockValidity.publish"),
    ("vllm.v1.core.block_pool", "BlockPool.get_new_blocks",
     "lragent.vllm.core.block_validity", "BlockValidity.get_new_blocks"),
    ("vllm.lora.punica_wrapper.punica_gpu", "PunicaWrapperGPU.update_metadata",
     "lragent.vllm.lora_speed.metadata", "HostMetadata.update"),
)  # fmt: skip
"""Methods that are replaced on objects: vLLM's and the plugin's."""


def drift() -> str | None:
    """Why the plugin cannot work with the installed vLLM; None when it can."""
    version = _version()
    if not _minor(OLDEST) <= _minor(version) <= _minor(NEWEST):
        return (
            f"lragent knows vLLM {OLDEST} to {NEWEST}, and this is vLLM {version}; install one of "
            "these, a newer lragent, or leave the option out"
        )
    changed = changes()
    if changed:
        return (
            f"this vLLM {version} is not as lragent knows it: {'; '.join(changed)}; install an "
            f"unchanged vLLM {OLDEST} to {NEWEST}"
        )
    return None


def changes() -> list[str]:
    """What of vLLM is not as the plugin expects it, one line each, whatever the version."""
    found = [*lost(SYMBOLS), *unread(FIELDS), *unset(check.path for check in CHECKS)]
    try:
        return [*found, *unfit()]
    except (ImportError, AttributeError) as error:
        return [*found, f"the plugin's own modules fail: {error}"]


def lost(symbols: Iterable[Symbol]) -> list[str]:
    """Symbols that are gone, or that do not take what the plugin passes."""
    return [f"{symbol} {why}" for symbol in symbols if (why := _why_lost(symbol)) is not None]


def unread(classes: Iterable[Fields]) -> list[str]:
    """Attributes that the plugin reads and that a class's objects do not have."""
    found = []
    for each in classes:
        owner = _find(each.module, each.name)
        if owner is None:
            found.append(f"{each} is gone")
            continue
        gone = [name for name in each.fields if not _has(owner, name)]
        if gone:
            found.append(f"{each} has no {', '.join(gone)}")
    return found


def unset(paths: Iterable[str]) -> list[str]:
    """Fields of vLLM's configuration that the plugin checks and that are gone."""
    from vllm.config import VllmConfig

    found = []
    for path in paths:
        owner: Any = VllmConfig
        for name in path.split("."):
            if owner is not None and not _has(owner, name):
                found.append(f"vllm.config.{owner.__name__} has no {name} ({path})")
                break
            owner = _type_of(owner, name)
    return found


def unfit() -> list[str]:
    """Replacements that vLLM's calls do not fit."""
    reasons = ((name, misfit(stock, ours)) for name, stock, ours in replacements())
    found = [f"{name} {why}" for name, why in reasons if why is not None]
    return list(dict.fromkeys(found))  # several classes may override one method


def hooks() -> tuple[Hook, ...]:
    """All hooks but that of the configuration."""
    from lragent.vllm.core import hooks as core
    from lragent.vllm.frontend import answer_text, chat_text
    from lragent.vllm.frontend import hooks as frontend
    from lragent.vllm.worker import hooks as worker

    return (*core.HOOKS, *frontend.HOOKS, *answer_text.HOOKS, *chat_text.HOOKS, *worker.hooks())


def replacements() -> Iterator[tuple[str, Any, Any]]:
    """Each replaced function by its name: vLLM's (None where it is gone) and the plugin's."""
    for hook in hooks():
        stock = _find(hook.module, hook.name)
        if stock is None or callable(stock):
            yield f"{hook.module}.{hook.name}", stock, stock and hook.make(stock)
    for module, name, our_module, our_name in _OBJECTS:
        yield f"{module}.{name}", _find(module, name), _find(our_module, our_name)
    for ours in _subclasses():
        yield from _overrides(ours)


def misfit(stock: Any, ours: Any) -> str | None:
    """Why a call that suits ``stock`` may not suit ``ours``; None when every one does."""
    if stock is None:
        return "is gone"
    theirs = inspect.signature(stock)
    mine = inspect.signature(ours, follow_wrapped=False)
    positional = [p.name for p in theirs.parameters.values() if p.kind in _POSITIONAL]
    named = [p.name for p in mine.parameters.values() if p.kind in _POSITIONAL]
    for theirs_name, my_name in zip(positional, named, strict=False):
        if theirs_name != my_name:
            return f"is called with {theirs_name} where lragent takes {my_name}"
    for call in _calls(theirs):
        try:
            mine.bind(*call[0], **call[1])
        except TypeError as error:
            return f"is called with {theirs}: {error}"
    return None


_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def _calls(signature: inspect.Signature) -> Iterator[tuple[list[str], dict[str, str]]]:
    """The shortest call, the one with most positions, and the one with most keywords."""
    everything = [p for p in signature.parameters.values() if p.kind not in _VARIADIC]
    needed = [p for p in everything if p.default is inspect.Parameter.empty]
    for parameters, by_keyword in ((needed, False), (everything, False), (everything, True)):
        keywords = {
            p.name: p.name for p in parameters
            if p.kind is inspect.Parameter.KEYWORD_ONLY
            or (by_keyword and p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD)
        }  # fmt: skip
        yield [p.name for p in parameters if p.name not in keywords], keywords


_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def _subclasses() -> list[type]:
    """The plugin's classes that take the place of vLLM's."""
    from lragent.vllm.lora_speed import layers
    from lragent.vllm.worker import attention, lora_layer

    found = [
        lora_layer.LRMergedQKVWithLoRA,
        layers.QuickRowWithLoRA,
        layers.QuickMergedColumnWithLoRA,
        attention.LRAttentionBackend,
        attention.LRAttentionImpl,
        attention.LRMetadataBuilder,
    ]
    if importlib.util.find_spec("triton") is not None:
        from lragent.vllm.worker import attention_gpu

        found += [attention_gpu.LRDeviceBackend, attention_gpu.LRDeviceMetadataBuilder]
    return found


def _overrides(ours: type) -> Iterator[tuple[str, Any, Any]]:
    """Methods of a class that override some of vLLM's."""
    own = [c for c in ours.__mro__ if c.__module__.startswith("lragent.")]
    stock = [c for c in ours.__mro__ if c.__module__.startswith("vllm.")]
    for name in sorted({name for c in own for name in vars(c) if callable(getattr(c, name))}):
        for base in stock:
            if name in vars(base) and callable(getattr(base, name)):
                yield (
                    f"{base.__module__}.{base.__name__}.{name}",
                    getattr(base, name),
                    getattr(ours, name),
                )
                break


def _find(module: str, name: str) -> Any:
    """The object at a path; None when it is gone."""
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError):
        return None
    # What every class has is not vLLM's.
    return None if found is getattr(object, name.rpartition(".")[2], None) else found


def _why_lost(symbol: Symbol) -> str | None:
    found = _find(symbol.module, symbol.name)
    if found is None:
        return "is gone"
    if symbol.parameters is None:
        return None
    known = inspect.signature(found).parameters
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in known.values()):
        return None
    lost = [name for name in symbol.parameters if name not in known]
    return f"takes no {', '.join(lost)}" if lost else None


def _has(owner: type, name: str) -> bool:
    """Whether a class's objects have an attribute: declared, or one that its own methods use."""
    if hasattr(owner, name):
        return True
    for c in owner.__mro__:
        if name in vars(c).get("__annotations__", ()):
            return True
        methods = (inspect.unwrap(m) for m in vars(c).values() if inspect.isfunction(m))
        if any(name in method.__code__.co_names for method in methods):
            return True
    return False


def _type_of(owner: Any, name: str) -> Any:
    """The configuration class that a field holds; None for plain values."""
    field = getattr(owner, "__pydantic_fields__", {}).get(name)
    kinds = () if field is None else (field.annotation, *get_args(field.annotation))
    return next((kind for kind in kinds if hasattr(kind, "__pydantic_fields__")), None)


def _version() -> str:
    from vllm.version import __version__

    return str(__version__).partition("+")[0]


def _minor(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2])
