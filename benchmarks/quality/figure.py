"""Draw a result of benchmarks/quality/run.py as SVG.

pip install '.[eval]'
python -m benchmarks.quality.figure RESULT.json docs/images/right-answers.svg
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from benchmarks.common.files import load
from benchmarks.quality import TOGETHER
from benchmarks.quality.arms import REFERENCE
from benchmarks.quality.table import named
from matplotlib.figure import Figure

COLORS = {
    "isolated": "#444444",
    "full": "#8172b2",
    "base": "#dd8452",
    "base+lr": "#4878a8",
    "neutral": "#55a868",
}


def draw(result: dict[str, Any]) -> Figure:
    """Right answers of each arm with 95 % intervals; a line where nothing is shared."""
    arms = [arm for arm in result["tasks"][TOGETHER]["arms"] if "/" in arm["arm"]]
    figure = Figure(figsize=(8, 0.4 * len(arms) + 0.8), layout="tight")
    axis = figure.subplots()
    for place, arm in enumerate(arms):
        right = arm["exact"]
        around = [[right["value"] - right["low"]], [right["high"] - right["value"]]]
        color = COLORS[arm["arm"].split("/")[1]]
        axis.errorbar(right["value"], place, xerr=around, fmt="o", capsize=3, color=color)
        if arm["arm"] == REFERENCE:
            axis.axvline(right["value"], color="#444444", linewidth=0.8, linestyle="--")
    pairs = [arm["arm"].split("/") for arm in arms]
    labels = [f"trained for {named(training)}; served {policy}" for training, policy in pairs]
    axis.set_yticks(range(len(arms)), labels)
    axis.invert_yaxis()
    axis.set_xlim(left=0)
    axis.set_xlabel(f"right answers of {result['tasks'][TOGETHER]['questions']:,} questions, %")
    axis.grid(axis="x", alpha=0.3)
    return figure


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("result", type=Path)
    parser.add_argument("out", type=Path)
    chosen = parser.parse_args(arguments)
    with mpl.rc_context({"svg.hashsalt": "quality"}):  # the same bytes from the same result
        draw(load(chosen.result)).savefig(chosen.out, metadata={"Date": None})


if __name__ == "__main__":
    main()
