"""The pictures of the demo's report, as SVG text."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from matplotlib.figure import Figure
from matplotlib.patches import Patch

from lragent.agents.hand_overs import HandOver
from lragent.agents.policy_comparison import PolicyOutcome
from lragent.evaluation.figures import svg

_COLOURS = ("#2a9d8f", "#e9a23b", "#7b5ea7", "#3a6ea5", "#c8553d")
_MIB = 1 << 20


def _colours(turns: Sequence[HandOver]) -> dict[str, str]:
    agents = dict.fromkeys(turn.agent for turn in turns)
    return dict(zip(agents, _COLOURS * len(agents), strict=False))


def timeline_figure(turns: Sequence[HandOver]) -> str:
    """Turns by agent along the time, on caches of their own and on a shared one."""
    colours = _colours(turns)
    figure = Figure(figsize=(11, 2.4), layout="tight")
    axis = figure.subplots()
    for lane, kind in enumerate(("shared", "alone")):
        at = 0.0
        for turn in turns:
            cost = getattr(turn, kind)
            colour = colours[turn.agent]
            axis.barh(lane, cost.ttft_s, left=at, color=colour, edgecolor="white")
            axis.barh(
                lane, cost.seconds - cost.ttft_s, left=at + cost.ttft_s, color=colour, alpha=0.35
            )
            at += cost.seconds
    axis.set_yticks([0, 1], ["shared cache", "own caches"])
    axis.set_xlabel("seconds; pale: writing, full colour: reading the prompt")
    axis.legend(handles=[Patch(color=c, label=a) for a, c in colours.items()], fontsize=8)
    return svg(figure)


def pages_figure(turns: Sequence[HandOver]) -> str:
    """The pages of each turn's prompt in the shared cache, coloured by who wrote them."""
    colours = _colours(turns)
    figure = Figure(figsize=(11, 0.4 * len(turns) + 1.4), layout="constrained")
    axis = figure.subplots()
    for row, turn in enumerate(turns):
        at = 0
        for writer, run in groupby(turn.writers):
            count = len(list(run))
            axis.barh(row, count, left=at, color=colours[writer])
            at += count
        read = turn.shared.cached_tokens
        axis.text(at, row, f"  {read:,} of {turn.prompt_tokens:,} tokens reused", va="center")
    axis.set_yticks(range(len(turns)), [turn.agent for turn in turns])
    axis.invert_yaxis()
    axis.set_xlim(right=1.35 * max(len(turn.writers) for turn in turns))
    axis.set_xlabel("pages of the prompt")
    handles = [Patch(color=colour, label=f"written by {name}") for name, colour in colours.items()]
    figure.legend(handles=handles, loc="outside upper right", ncols=len(handles), fontsize=8)
    return svg(figure)


def policy_figure(outcomes: Sequence[PolicyOutcome]) -> str:
    """Time to first token and bytes of the same run under each policy."""
    names = [outcome.policy.value for outcome in outcomes]
    figure = Figure(figsize=(11, 3.2), layout="tight")
    left, right = figure.subplots(1, 2)
    left.bar(names, [outcome.cost.ttft_s for outcome in outcomes], color=_COLOURS[3])
    left.set_ylabel("sum of times to first token (s)")
    base = [outcome.stats.kv_base_bytes / _MIB for outcome in outcomes]
    low_rank = [outcome.stats.kv_lr_bytes / _MIB for outcome in outcomes]
    right.bar(names, base, color=_COLOURS[0], label="keys and values")
    right.bar(names, low_rank, bottom=base, color=_COLOURS[1], label="low-rank values")
    right.set_ylabel("KV cache (MiB)")
    right.legend(fontsize=8)
    return svg(figure)
