"""The report's figures, as SVG text."""

from __future__ import annotations

import io
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lragent.evaluation.statistics import Estimate
from lragent.evaluation.summary import Cell

_KL = "KL divergence to isolated (nats a token)"
_RATIO = "NLL divided by isolated's"


def role_figure(cells: Sequence[Cell], limit: float) -> str:
    """NLL ratio and KL divergence by role, a colour for each policy, with intervals."""
    roles = list(dict.fromkeys(str(c.role) for c in cells))
    policies = list(dict.fromkeys(c.policy for c in cells))
    figure = Figure(figsize=(11, 3.8), layout="tight")
    left, right = figure.subplots(1, 2)
    for axis, label, value in ((left, _RATIO, _ratio), (right, _KL, _kl)):
        for i, policy in enumerate(policies):
            own = [c for c in cells if c.policy == policy]
            shift = 0.8 * ((i + 0.5) / len(policies) - 0.5)
            places = [roles.index(str(c.role)) + shift for c in own]
            _points(axis, places, [value(c) for c in own], policy, joined=False)
        axis.set_xticks(range(len(roles)), roles)
        axis.set_ylabel(label)
    left.set_yscale("log", subs=[1.5, 2, 3, 5])
    for which in (left.yaxis.set_major_formatter, left.yaxis.set_minor_formatter):
        which("{x:g}")
    left.axhline(limit, color="black", linewidth=0.8, linestyle="--")
    return _svg(figure, left)


def curve_figure(cells: Sequence[Cell], key: str, label: str) -> str:
    """NLL ratio and KL divergence against `key` of the cells, a line for each policy."""
    figure = Figure(figsize=(11, 3.8), layout="tight")
    left, right = figure.subplots(1, 2)
    for axis, name, value in ((left, _RATIO, _ratio), (right, _KL, _kl)):
        for policy in dict.fromkeys(c.policy for c in cells):
            own = sorted((c for c in cells if c.policy == policy), key=lambda c: getattr(c, key))
            places = [getattr(c, key) for c in own]
            _points(axis, places, [value(c) for c in own], policy, joined=True)
        ticks = sorted({getattr(c, key) for c in cells})
        axis.set_xscale("log", base=2)
        axis.set_xticks(ticks, [str(tick) for tick in ticks])
        axis.minorticks_off()
        axis.set_xlabel(label)
        axis.set_ylabel(name)
    return _svg(figure, left)


def _ratio(cell: Cell) -> Estimate:
    return cell.nll_ratio


def _kl(cell: Cell) -> Estimate:
    return cell.kl


def _points(
    axis: Axes, places: Sequence[float], estimates: Sequence[Estimate], name: str, joined: bool
) -> None:
    values = [e.value for e in estimates]
    # a percentile interval need not hold the estimate itself
    below = [max(0.0, e.value - e.low) for e in estimates]
    above = [max(0.0, e.high - e.value) for e in estimates]
    axis.errorbar(
        places, values, yerr=[below, above], label=name, capsize=3, marker="o", markersize=4,
        linestyle="-" if joined else "none",
    )  # fmt: skip


def _svg(figure: Figure, legend: Axes) -> str:
    if legend.containers:  # after an early Ctrl-C there is nothing to show
        legend.legend(fontsize=8)
    return svg(figure)


def svg(figure: Figure) -> str:
    """The figure as an SVG element, the same for the same data."""
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()[text.getvalue().index("<svg") :]
