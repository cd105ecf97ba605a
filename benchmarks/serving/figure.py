"""Draw the figures of a result of benchmarks/serving/run.py beside it, one SVG a part.

    pip install '.[eval]'
    python -m benchmarks.serving.figure benchmarks/results/serving-h100.json

Writes serving-h100-handover.svg, -workflow.svg, -trace.svg, -tight.svg and -open.svg for the parts
that the file has.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from benchmarks.serving.table import serving_rows

Rows = Sequence[dict[str, Any]]
COLORS = {
    "stock": "#888888",
    "stock-targets": "#444444",
    "isolated": "#c44e52",
    "full": "#8172b2",
    "base": "#dd8452",
    "base+lr": "#4878a8",
}


def policies(rows: Rows) -> list[str]:
    """Policies in the order of their first row."""
    return list(dict.fromkeys(row["policy"] for row in rows))


def style(policy: str) -> dict[str, Any]:
    """A colour for the engine; one adapter for all requests is dashed."""
    one = policy.endswith("-one")
    return {
        "color": COLORS.get(policy.removesuffix("-one"), "black"),
        "linestyle": "--" if one else "-",
        "marker": ".",
        "label": policy,
    }


def lines(axis: Any, rows: Rows, across: str, measure: str) -> None:
    """One line a policy."""
    for policy in policies(rows):
        points = sorted((r[across], r[measure]) for r in rows if r["policy"] == policy)
        axis.plot(*zip(*points, strict=True), **style(policy))


def bars(axis: Any, rows: Rows, measure: str) -> None:
    """Groups of bars: a group a case, a bar a policy."""
    cases, names = list(dict.fromkeys(row["case"] for row in rows)), policies(rows)
    width = 0.8 / len(names)
    for place, policy in enumerate(names):
        mine = {row["case"]: row[measure] for row in rows if row["policy"] == policy}
        axis.bar(
            [index + place * width for index, case in enumerate(cases) if case in mine],
            [mine[case] for case in cases if case in mine],
            width,
            color=COLORS.get(policy.removesuffix("-one"), "black"),
            hatch="//" if policy.endswith("-one") else None,
            label=policy,
        )
    axis.set_xticks([index + 0.4 - width / 2 for index in range(len(cases))], cases)


def draw_handover(rows: Rows) -> Any:
    """TTFT over context, a panel for cold, same and other."""
    kinds = ("cold", "same", "other")
    figure, axes = plt.subplots(1, 3, figsize=(10, 3.4), sharey=True)
    for axis, kind in zip(axes, kinds, strict=True):
        lines(axis, [row for row in rows if row["kind"] == kind], "context", "ttft_ms")
        axis.set(xscale="log", yscale="log", xlabel="tokens of context", title=kind)
    axes[0].set_ylabel("TTFT, ms")
    axes[0].legend(fontsize=7)
    return figure


def draw_speed(rows: Rows) -> Any:
    """Throughput as bars."""
    figure, axis = plt.subplots(figsize=(6, 3.4))
    bars(axis, rows, "tokens_per_s")
    axis.set(xlabel="sessions x tokens", ylabel="tokens/s")
    axis.margins(y=0.25)  # room for the legend
    axis.legend(fontsize=7, ncols=3, loc="upper right")
    return figure


def draw_trace(rows: Rows) -> Any:
    """Throughput, sum of TTFT and peak KV bytes over the trace's length."""
    figure, axes = plt.subplots(1, 3, figsize=(10, 3.4))
    for axis, measure, label in zip(
        axes,
        ("tokens_per_s", "ttft_ms", "kv_bytes"),
        ("tokens/s", "sum of TTFT, ms", "peak KV bytes"),
        strict=True,
    ):
        lines(axis, rows, "tokens", measure)
        axis.set(xscale="log", yscale="log", xlabel="tokens of the trace", ylabel=label)
    axes[0].legend(fontsize=7)
    return figure


def draw_open(rows: Rows) -> Any:
    """p90 of TTFT and of whole trajectories over the rate."""
    figure, axes = plt.subplots(1, 2, figsize=(8, 3.4))
    lines(axes[0], rows, "rate", "ttft_p90_ms")
    axes[0].axhline(1000, color="black", linewidth=0.8)
    axes[0].set(ylabel="p90 of TTFT, ms")
    lines(axes[1], rows, "rate", "trajectory_p90_s")
    axes[1].set(ylabel="p90 of whole trajectories, s")
    for axis in axes:
        axis.set(xscale="log", yscale="log", xlabel="trajectories a second")
    axes[0].legend(fontsize=7)
    return figure


DRAWINGS: dict[str, Callable[[Rows], Any]] = {
    "handover": draw_handover,
    "workflow": draw_speed,
    "trace": draw_trace,
    "tight": draw_speed,
    "open": draw_open,
}


def main() -> None:
    """Read the result file named on the command line and write the figures beside it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("result", type=Path)
    path = parser.parse_args().result
    result = json.loads(path.read_text())
    device, version = result["hardware"]["device"], result["versions"]["vllm"]
    for part, make in DRAWINGS.items():
        rows = [
            {**row, "policy": policy}
            for (of, _, policy), row in serving_rows(result).items()
            if of == part
        ]
        if not rows:
            continue
        figure = make(rows)
        commit = result["commit"][:10]
        title = f"{part}: {result['model']}, {device}, vLLM {version}, {commit}"
        figure.suptitle(title, fontsize=9)
        figure.tight_layout()
        figure.savefig(path.with_name(f"{path.stem}-{part}.svg"))
        plt.close(figure)


if __name__ == "__main__":
    main()
