"""What the embedded engine refuses, and how it says so."""

from __future__ import annotations


class EngineError(Exception):
    """Base of every error that the embedded engine raises on purpose."""


class UnsupportedModelError(EngineError, ValueError):
    """The model's family or one of its features cannot be served from the shared cache."""


class UnknownAdapterError(EngineError, KeyError):
    """No adapter is loaded under the name that a request gave."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class PromptTooLongError(EngineError, ValueError):
    """The prompt leaves no room for a new token within the model's context limit."""


class BudgetError(EngineError, ValueError):
    """The KV budget cannot hold what was asked for, even with everything else evicted."""


class QueueFullError(EngineError, RuntimeError):
    """As many requests wait as the engine lets wait; try again later."""


class CacheFileError(EngineError, ValueError):
    """A saved cache is damaged, or was saved for something else than what is loaded."""


class EngineClosedError(EngineError, RuntimeError):
    """The engine was closed and takes no more work."""


class GenerationFailedError(EngineError, RuntimeError):
    """The forward pass that served a request failed; other requests go on."""
