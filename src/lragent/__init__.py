"""One KV cache for several LoRA agents over one base model.

The public names are imported when first used, so that `import lragent` stays light.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lragent.engine import (
        Chunk,
        Completion,
        Engine,
        Request,
        SamplingParams,
        StructuredOutputsParams,
    )
    from lragent.engine.errors import (
        BudgetError,
        CacheFileError,
        EngineClosedError,
        EngineError,
        GenerationFailedError,
        PromptTooLongError,
        QueueFullError,
        UnknownAdapterError,
        UnsupportedModelError,
    )
    from lragent.sharing import Policy, SharingGroup

__all__ = [
    "BudgetError",
    "CacheFileError",
    "Chunk",
    "Completion",
    "Engine",
    "EngineClosedError",
    "EngineError",
    "GenerationFailedError",
    "Policy",
    "PromptTooLongError",
    "QueueFullError",
    "Request",
    "SamplingParams",
    "SharingGroup",
    "StructuredOutputsParams",
    "UnknownAdapterError",
    "UnsupportedModelError",
    "__version__",
]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = "sharing" if name in ("Policy", "SharingGroup") else "engine"
    if name.endswith("Error"):
        home = "engine.errors"
    return getattr(import_module(f"{__name__}.{home}"), name)
