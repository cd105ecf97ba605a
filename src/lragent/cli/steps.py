"""A run's steps on the console while they happen."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from lragent.agents.prompts import Role, Turn
from lragent.agents.results import AgentEvent, CallRecord, EventKind

_STYLES = {Role.PLAN: "cyan", Role.ACT: "green", Role.REFLECT: "magenta"}
_LABELS = {
    Turn.THOUGHT: "thought",
    Turn.TOOL: "tool",
    Turn.ARGUMENT: "argument",
    Turn.VERDICT: "verdict",
}


class StepPrinter:
    """Prints events: who writes what, piece by piece, and each call's tokens."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._fresh = True

    def __call__(self, event: AgentEvent) -> None:
        """Show one event."""
        if event.kind is EventKind.TURN_STARTED and event.role and event.turn:
            label = f"{event.step:>3} {event.role.value:<8}{_LABELS[event.turn]:<10}"
            self._write(label, f"bold {_STYLES[event.role]}")
            self._fresh = True
        elif event.kind is EventKind.TEXT and event.role:
            text = event.text.lstrip() if self._fresh else event.text
            self._fresh = self._fresh and not text
            self._write(text, _STYLES[event.role])
        elif event.kind is EventKind.TURN_ENDED and event.call:
            self._write(_tokens(event.call) + "\n", "dim")
        elif event.kind is EventKind.OBSERVATION:
            self._write(f"{event.step:>3} {'tool':<8}{'says':<10}", "bold yellow")
            self._write(f"{event.text}\n", "yellow")

    def _write(self, text: str, style: str) -> None:
        self._console.print(Text(text, style=style), end="", soft_wrap=True)


def _tokens(call: CallRecord) -> str:
    reused = "" if call.reused_tokens is None else f", {call.reused_tokens} reused"
    return f"  ({call.prompt_tokens} prompt tokens{reused})"
