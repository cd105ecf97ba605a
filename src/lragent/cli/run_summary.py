"""The end of a run as a table: answer, and tokens and times by role."""

from __future__ import annotations

from rich.console import Group
from rich.table import Table
from rich.text import Text

from lragent.agents import AgentResult, Role, Status
from lragent.cli.errors import INTERRUPTED, show_error


def summary(result: AgentResult) -> Group:
    """What a run came to."""
    table = Table()
    table.add_column("role")
    for column in ("calls", "prompt tokens", "reused", "generated", "first token (s)"):
        table.add_column(column, justify="right")
    for role in Role:
        calls = [call for call in result.calls if call.role is role]
        told = [call.reused_tokens for call in calls if call.reused_tokens is not None]
        table.add_row(
            role.value,
            str(len(calls)),
            f"{sum(call.prompt_tokens for call in calls):,}",
            f"{sum(told):,}" if told or not calls else "not told",
            f"{sum(call.generated_tokens for call in calls):,}",
            f"{sum(call.ttft_s or 0.0 for call in calls):.2f}",
        )
    answer = Text("Answer: ", style="bold")
    answer.append(result.answer or "none", style="green" if result.answer else "red")
    if result.verdict is not None:
        answer.append(f"  (reflect says {result.verdict})", style="dim")
    time = Text(f"steps: {result.steps}, seconds: {result.seconds:.1f}", style="dim")
    return Group(Text(), answer, table, time)


def exit_code(result: AgentResult) -> int:
    """0 for an answer; otherwise says on stderr what happened."""
    if result.status is Status.ANSWERED:
        return 0
    if result.status is Status.CANCELLED:
        show_error("Interrupted.")
        return INTERRUPTED
    show_error(f"No answer: {result.detail}")
    return 1
