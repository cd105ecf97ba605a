"""Hand-overs side by side, a row each as they happen, and what they come to."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from lragent.agents.hand_overs import HandOver
from lragent.sharing.policies import Policy

STYLES = ("cyan", "green", "magenta")


class HandOverTable:
    """Prints the head, then a line for each turn."""

    def __init__(self, console: Console, agents: Sequence[str]) -> None:
        self._console = console
        self._styles = dict(zip(agents, STYLES * len(agents), strict=False))
        self._longest = 0.0

    def head(self, tokens: int, policy: Policy) -> None:
        """Say what is shown."""
        self._console.print(
            f"\nAgents take turns on a document of {tokens:,} tokens, each on its own cache and on "
            f"one shared under {policy}.\nSeconds until an agent's first token:\n"
        )
        self._console.print(
            f"{'agent':<9}{'prompt':>7}{'own cache':>11}{'shared':>9}", style="bold"
        )

    def __call__(self, turn: HandOver) -> None:
        """One line: times, how much faster, and a bar of each."""
        own, shared = turn.alone.ttft_s, turn.shared.ttft_s
        self._longest = max(self._longest, own, shared)
        line = Text(f"{turn.agent:<9}", style=self._styles[turn.agent])
        line.append(f"{turn.prompt_tokens:>7,}{own:>11.2f}{shared:>9.2f}", style="default")
        ratio = own / shared if shared else 1.0
        line.append(f"{ratio:>6.0f}x  " if ratio >= 1.5 else " " * 9, style="bold")
        line.append("█" * max(1, round(18 * own / self._longest)), style="red")
        line.append(" ")
        line.append("█" * max(1, round(18 * shared / self._longest)), style="green")
        self._console.print(line, soft_wrap=True)


def hand_over_sentence(turns: Sequence[HandOver]) -> str:
    """What the turns come to, in one sentence."""
    own, shared = (sum(getattr(t, kind).ttft_s for t in turns) for kind in ("alone", "shared"))
    pages = len(turns[-1].writers)
    return (
        f"Waiting for first tokens: {own:.1f} s with a cache for each agent, {shared:.1f} s with a "
        f"shared one. {pages:,} pages hold the prompt for all of them, instead of once for each."
    )
