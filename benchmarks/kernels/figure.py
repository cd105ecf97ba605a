"""Draw benchmarks/results/kernels-<gpu>.svg from the result file beside it.

python -m benchmarks.kernels.figure benchmarks/results/kernels-h200.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

KINDS = [
    ("decode", False, "decode"),
    ("prefill", False, "prefill, one sequence"),
    ("mixed", False, "mixed batches"),
    ("prefill-without-fa3", False, "prefill, FlashAttention 3 not installed"),
    ("decode", True, "decode, LoRA on keys and values"),
    ("prefill", True, "prefill, LoRA on keys and values"),
]


def label(row: dict[str, Any]) -> str:
    """What tells a case from the others of its kind."""
    if row["kind"] == "decode":
        return f"{row['batch']} x {row['context'] // 1024}k, r{row['rank']}"
    if row["kind"] == "mixed":
        return f"{row['batch']} seq., up to {row['query']} of {row['context'] // 1024}k"
    return f"{row['query']} of {row['context'] // 1024}k"


def draw(result: dict[str, Any], path: Path) -> None:
    """One panel a kind: our time over the peer's, with a line at 1."""
    panels = []
    for kind, keys, title in KINDS:
        rows = [r for r in result["cases"] if r["kind"] == kind and r["kv_lora"] == keys]
        if rows:
            panels.append((title, rows))
    heights = [len(rows) + 2 for _, rows in panels]
    figure, axes = plt.subplots(
        len(panels), 1, figsize=(8, 0.22 * sum(heights)), height_ratios=heights, sharex=True
    )
    for axis, (title, rows) in zip(axes, panels, strict=True):
        places = range(len(rows))
        axis.barh(places, [row["ratio"] for row in rows], color="#4878a8")
        axis.set_yticks(places, [label(row) for row in rows], fontsize=7)
        axis.margins(y=0.02)
        axis.invert_yaxis()
        axis.axvline(1, color="black", linewidth=0.8)
        axis.set_title(title, fontsize=9, loc="left")
    axes[-1].set_xlabel(
        "time with LoRA over time of FlashAttention 3 without LoRA (less is better)"
    )
    commit = result["commit"][:10]
    figure.suptitle(f"{result['device']}, bf16, torch {result['torch']}, {commit}", fontsize=9)
    figure.tight_layout()
    figure.savefig(path)


def main() -> None:
    """Read the result file named on the command line and write the figure beside it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("result", type=Path)
    options = parser.parse_args()
    draw(json.loads(options.result.read_text()), options.result.with_suffix(".svg"))


if __name__ == "__main__":
    main()
