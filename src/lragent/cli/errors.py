"""Errors of the library as one red line and an exit code, without a traceback."""

from __future__ import annotations

import sys
from typing import Any

import typer
from rich.console import Console
from rich.text import Text
from typer.core import TyperGroup

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it (128 + SIGINT)."""

_EXPECTED = {
    "lragent.adapters.errors": ("AdapterError",),
    "lragent.engine.errors": ("EngineError",),
    "lragent.smollm2": ("ModelUnavailableError",),
    "lragent.agents.backend": ("BackendError",),
    "lragent.agents.tools.documents": ("DocumentError",),
    "lragent.agents.trace": ("TraceWriteError", "TraceReadError"),
    "lragent.agents.trajectories.records": ("RecordError",),
    "lragent.evaluation.errors": ("EvaluationError",),
    "lragent.training.errors": ("TrainingError",),
    "pydantic": ("ValidationError",),
    "builtins": ("OSError",),
}
"""Errors that tell users something about their input or their machine; others are bugs."""

_EXTRAS = {
    "bm25s": "agents",
    "openai": "agents",
    "matplotlib": "eval",
    "jinja2": "eval",
    "fastapi": "serve",
    "uvicorn": "serve",
    "prometheus_client": "serve",
}
"""The extra that brings a package."""


def message_of(error: Exception) -> str | None:
    """What to show for an expected error; None for one that needs its traceback.

    An error's class can only come from a module that is loaded, so nothing is imported here.
    """
    if isinstance(error, ModuleNotFoundError) and error.name in _EXTRAS:
        return f"This needs {error.name}: pip install 'lragent[{_EXTRAS[error.name]}]'"
    known = [
        getattr(sys.modules[module], name)
        for module, names in _EXPECTED.items()
        if module in sys.modules
        for name in names
    ]
    if not isinstance(error, tuple(known)):
        return None
    if problems := getattr(error, "errors", None):  # pydantic's ValidationError
        first = problems()[0]
        place = ".".join(map(str, first["loc"]))
        return f"{place + ': ' if place else ''}{first['msg']}"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)


def show_error(message: str) -> None:
    """Print a message in red on stderr."""
    Console(stderr=True).print(Text(message, style="red"), soft_wrap=True)


class ErrorGroup(TyperGroup):
    """Runs a command and turns what it raises into an exit code: 1, or 130 after Ctrl-C."""

    def invoke(self, ctx: Any) -> Any:
        """Run the chosen command. Some typer versions carry a click of their own, hence `Any`."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            show_error("Interrupted.")
            raise typer.Exit(INTERRUPTED) from None
        except Exception as error:
            message = message_of(error)
            if message is None:
                raise
            show_error(message)
            raise typer.Exit(1) from error
