"""Read and check PEFT adapter folders; digests.

The public names are imported when they are first used, so that a command that only needs to know
a name does not wait for torch and PEFT.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lragent.adapters.checks import check_against_model
    from lragent.adapters.digests import a_digests
    from lragent.adapters.errors import AdapterError
    from lragent.adapters.model import Adapter, LoraModule
    from lragent.adapters.model_facts import ModelFacts
    from lragent.adapters.names import near_misses
    from lragent.adapters.peft_folder import read_adapter

_HOMES = {
    "Adapter": "model",
    "AdapterError": "errors",
    "LoraModule": "model",
    "ModelFacts": "model_facts",
    "a_digests": "digests",
    "check_against_model": "checks",
    "near_misses": "names",
    "read_adapter": "peft_folder",
}

__all__ = [
    "Adapter",
    "AdapterError",
    "LoraModule",
    "ModelFacts",
    "a_digests",
    "check_against_model",
    "near_misses",
    "read_adapter",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
