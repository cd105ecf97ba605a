"""Shared-A multi-LoRA fine-tuning.

The public names are imported when they are first used, since they need torch and PEFT.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lragent.training.config import Mode, TrainConfig
    from lragent.training.errors import TrainingError
    from lragent.training.report import RoleResult, TrainedRole, TrainReport
    from lragent.training.run import train

_HOMES = {
    "Mode": "config",
    "RoleResult": "report",
    "TrainConfig": "config",
    "TrainReport": "report",
    "TrainedRole": "report",
    "TrainingError": "errors",
    "train": "run",
}

__all__ = [
    "Mode",
    "RoleResult",
    "TrainConfig",
    "TrainReport",
    "TrainedRole",
    "TrainingError",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
