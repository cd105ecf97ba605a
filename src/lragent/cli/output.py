"""Where output goes: results on stdout, everything else on stderr when stdout is for a machine."""

from __future__ import annotations

import json
from types import TracebackType
from typing import Any

import typer
from rich.console import Console
from rich.status import Status


def print_json(value: Any) -> None:
    """Print a result for machines on stdout."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


def talk_console(as_json: bool) -> Console:
    """The console for what is said along the way."""
    return Console(stderr=as_json, highlight=False)


class Stages:
    """Says what goes on: a spinner on a terminal, else one line a stage."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._status: Status | None = None

    def __call__(self, text: str) -> None:
        """Start a stage; the one before is over."""
        if not self._console.is_terminal:
            self._console.print(f"… {text}", style="dim", markup=False, soft_wrap=True)
        elif self._status is None:
            self._status = self._console.status(text)
            self._status.start()
        else:
            self._status.update(text)

    def stop(self) -> None:
        """Take the spinner away."""
        if self._status is not None:
            self._status.stop()
            self._status = None

    def __enter__(self) -> Stages:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
