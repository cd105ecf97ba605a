"""Fine-tuning of LoRA adapters that are to share one KV cache.

The public names are imported when they are first used, since they need torch and PEFT.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lragent.training.acting import acting_tokens
    from lragent.training.config import Mode, TrainConfig, TrainedFor
    from lragent.training.errors import TrainingError
    from lragent.training.output import write_sidecar
    from lragent.training.prepare import prepare_for_neutral
    from lragent.training.report import RoleResult, TrainedRole, TrainReport
    from lragent.training.run import train

_HOMES = {
    "Mode": "config",
    "RoleResult": "report",
    "TrainConfig": "config",
    "TrainReport": "report",
    "TrainedFor": "config",
    "TrainedRole": "report",
    "TrainingError": "errors",
    "acting_tokens": "acting",
    "prepare_for_neutral": "prepare",
    "train": "run",
    "write_sidecar": "output",
}

__all__ = [
    "Mode",
    "RoleResult",
    "TrainConfig",
    "TrainReport",
    "TrainedFor",
    "TrainedRole",
    "TrainingError",
    "acting_tokens",
    "prepare_for_neutral",
    "train",
    "write_sidecar",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
