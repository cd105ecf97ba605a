"""Read and check PEFT adapter folders; digests; sharing groups and their LR slots.

The public names are imported when they are first used, so that a command that only needs to know
a name does not wait for torch and PEFT.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lragent.adapters.checks import check_against_model
    from lragent.adapters.compare import compare_adapters
    from lragent.adapters.digests import a_digests
    from lragent.adapters.errors import AdapterError
    from lragent.adapters.groups import GroupPlan, SharingGroup, plan_slots, validate_groups
    from lragent.adapters.model import Adapter, LoraModule
    from lragent.adapters.names import near_misses
    from lragent.adapters.peft_folder import read_adapter

_HOMES = {
    "Adapter": "model",
    "AdapterError": "errors",
    "GroupPlan": "groups",
    "LoraModule": "model",
    "SharingGroup": "groups",
    "a_digests": "digests",
    "check_against_model": "checks",
    "compare_adapters": "compare",
    "near_misses": "names",
    "plan_slots": "groups",
    "read_adapter": "peft_folder",
    "validate_groups": "groups",
}

__all__ = [
    "Adapter",
    "AdapterError",
    "GroupPlan",
    "LoraModule",
    "SharingGroup",
    "a_digests",
    "check_against_model",
    "compare_adapters",
    "near_misses",
    "plan_slots",
    "read_adapter",
    "validate_groups",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
