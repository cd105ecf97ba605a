"""One KV cache for several LoRA agents over one base model.

`Engine` and `SamplingParams` are imported when first used, so that `import lragent` stays light.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lragent.engine import Engine, SamplingParams

__all__ = ["Engine", "SamplingParams", "__version__"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name in ("Engine", "SamplingParams"):
        from lragent import engine

        return getattr(engine, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
