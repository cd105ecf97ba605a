"""Write the tables of the documents from the result files.

    python -m benchmarks.tables             # all documents of this checkout
    python -m benchmarks.tables --check     # only say which would change; then exit code 1

A table stands between two comments, of which the first names it and its result file:

    <!-- table: handover serving-h100.json -->
    …
    <!-- end -->

What such a pair encloses is replaced. tests/benchmarks/test_tables.py holds that nothing changes.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from benchmarks.answers.table import compared, scores
from benchmarks.common.files import RESULTS, load
from benchmarks.common.sources import ROOT
from benchmarks.common.table import Json, Table, number
from benchmarks.quality import table as quality
from benchmarks.serving import table as serving

MARKED = re.compile(r"<!-- table: (\S+) (\S+) -->\n.*?<!-- end -->", re.DOTALL)
DOCUMENTS = ("README.md", "docs/**/*.md", "benchmarks/*.md")


def agreement(result: Json) -> Table:
    """Mean differences of log-probabilities, over the runners and graph modes of each policy."""
    kinds = {"embedded": "embedded engine", "stock": "stock vLLM", "mode": "full graphs, runner 2"}
    rows = result["rows"]
    table = [["", *(f"from {name}" for name in kinds.values()), "same token"]]
    for row in rows:
        if row["kind"] == "yardstick":
            table.append([row["subject"], f"{row['mean']:.3f}", "", "", share([row])])
    policies = dict.fromkeys(row["subject"].split(",")[0] for row in rows if row["kind"] in kinds)
    for policy in policies:
        mine = [row for row in rows if row["subject"].split(",")[0] == policy]
        cells = [span([r["mean"] for r in mine if r["kind"] == kind]) for kind in kinds]
        table.append([f"`{policy}`", *cells, share([r for r in mine if r["kind"] in kinds])])
    for row in rows:
        if row["kind"] == "control" and row["against"] == "embedded":
            table.append(["another adapter", f"{row['mean']:.3f}", "", "", share([row])])
    return table


def span(values: Sequence[float]) -> str:
    """Smallest and largest value."""
    return f"{min(values):.3f} to {max(values):.3f}" if values else ""


def share(rows: Sequence[Json]) -> str:
    """The smallest share of places at which both chose the same token."""
    return f"{100 * min(row['equal'] for row in rows):.0f} %"


def two_gpus(result: Json) -> Table:
    """Differences of log-probabilities between two GPUs and one."""
    rows = {**result["rows"]}
    limits = rows.pop("tolerance")
    table = [["", "mean", "largest", "same token"]]
    for name, row in rows.items():
        named = {"stock": "stock vLLM", "control": "another policy"}.get(name, f"`{name}`")
        table.append([named, f"{row['mean']:.3f}", f"{row['max']:.3f}", share([row])])
    return [*table, ["allowed", f"{limits['mean']:.3f}", f"{limits['max']:.3f}", ""]]


def training_step(result: Json) -> Table:
    """Seconds and bytes of a training step for `neutral` divided by an ordinary one's."""
    table = [["", "time", "memory"]]
    for arm, found in result["neutral divided by isolated"].items():
        table.append([arm, *(f"{found[name]:.2f}" for name in ("seconds", "bytes"))])
    return table


def kernels(result: Json) -> Table:
    """Attention with LoRA divided by FlashAttention 3 without."""
    table = [["case", "geometric mean", "worst"]]
    table += [
        [name, f"{found['mean']:.3f}", f"{found['worst']:.3f}"]
        for name, found in result["summary"].items()
    ]
    return table


def layer(result: Json) -> Table:
    """What filling the cache takes of a layer of Llama 3.1 8B."""
    table = [["step", "tokens", "context", "layer, us", "write and projection, us", "share"]]
    for row in result["layer"]:
        cells = [number(row["layer_us"]), number(row["write_and_project_us"])]
        table.append(
            [
                row["kind"],
                f"{row['tokens']:,}",
                f"{row['context']:,}",
                *cells,
                f"{100 * row['share']:.1f} %",
            ]
        )
    return table


def projection(result: Json) -> Table:
    """The LR projection, for one slot and for eight."""
    rows = {
        (row["query"], row["slots"]): row for row in result["cases"] if row["kind"] == "project"
    }
    table = [
        ["tokens", "one slot, us", "8 slots, us", "one slot / `torch.mm`", "8 slots / `torch.mm`"]
    ]
    for tokens in sorted({tokens for tokens, _ in rows}):
        one, eight = rows[tokens, 1], rows[tokens, 8]
        cells = [number(one["ours_us"]), number(eight["ours_us"])]
        table.append([f"{tokens:,}", *cells, number(one["ratio"]), number(eight["ratio"])])
    return table


def embedded(result: Json) -> Table:
    """Decode of the embedded engine on a GPU."""
    table = [
        ["sequences", "context, tokens", "lragent, tokens/s", "peer, tokens/s", "ratio", "peer"]
    ]
    for row in result["decode"]:
        speeds = [number(row[name]) for name in ("ours_tokens_per_s", "peer_tokens_per_s")]
        cells = [str(row["batch"]), f"{row['context']:,}", *speeds, number(row["ratio"])]
        table.append([*cells, row["peer"]])
    return table


def hashing(result: Json) -> Table:
    """Host time of hashing a prompt that was sent before."""
    rows = [
        [f"{row['context']:,}", *(f"{row[name]:.2f} ms" for name in ("vllm_ms", "lragent_ms"))]
        for row in result["rows"]
    ]
    return [["context", "vLLM", "lragent"], *rows]


def planted(result: Json) -> Table:
    """Planted faults, and the tests that catch each."""
    catchers = result["catchers"]
    rows = [
        [row["what"], *("caught" if name in row["caught_by"] else "" for name in catchers)]
        for row in result["faults"]
    ]
    return [["fault", *catchers], *rows]


def window(result: Json) -> Table:
    """Hand-overs under `base+lr` whose last tokens the next agent computes itself."""
    heads = ["context", "window", "computed, %", "KL", "repaired, %", "same token, %"]
    lines = [[*heads, "NLL ratio", "cases"]]
    for row in result["rows"]:
        kl, repaired = row["kl"], row["repaired"]
        low, high = 100 * repaired["low"], 100 * repaired["high"]
        lines.append(
            [
                f"{row['kind']}, {row['context']:,.0f}",
                row["window"],
                f"{100 * row['computed']['value']:.0f}",
                f"{max(0.0, kl['value']):.3f}",
                f"{100 * repaired['value']:.0f} [{low:.0f}, {high:.0f}]",
                f"{100 * row['agreement']['value']:.0f}",
                f"{row['nll_ratio']['value']:.2f}",
                str(row["cases"]),
            ]
        )
    return lines


TABLES: dict[str, Callable[[Json], Table]] = {
    "handover": serving.handover,
    "cold": serving.cold,
    "chat": serving.chat,
    "training-step": training_step,
    "workflow": serving.workflow,
    "overhead": serving.overhead,
    "trace": serving.trace,
    "open": serving.open_loop,
    "old-new": serving.old_new,
    "agreement": agreement,
    "two-gpus": two_gpus,
    "kernels": kernels,
    "layer": layer,
    "projection": projection,
    "embedded": embedded,
    "hashing": hashing,
    "planted": planted,
    "answers": scores,
    "answers-compared": compared,
    "window": window,
    "quality-tasks": quality.tasks,
    "quality-together": quality.together,
    "quality-similarity": quality.similarity,
    "quality-training": quality.training,
    "quality-reading": quality.reading,
    "quality-lengths": quality.lengths,
    "quality-hand-overs": quality.hand_overs,
}


def markdown(table: Table) -> str:
    """A table; its first row is the head."""
    head, *rows = table
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def filled(text: str) -> str:
    """A document with its tables as the result files have them.

    Raises:
        ValueError: a marker names a table or a result file that does not exist.
    """

    def replaced(match: re.Match[str]) -> str:
        name, file = match.groups()
        if name not in TABLES:
            raise ValueError(f"no table is called {name!r}; there are {', '.join(TABLES)}")
        if not (RESULTS / file).is_file():
            raise ValueError(f"the table {name} names {file}, which is not in {RESULTS}")
        table = markdown(TABLES[name](load(RESULTS / file)))
        return f"<!-- table: {name} {file} -->\n{table}\n<!-- end -->"

    return MARKED.sub(replaced, text)


def documents() -> Iterable[Path]:
    """The documents of this checkout."""
    return sorted(path for pattern in DOCUMENTS for path in ROOT.glob(pattern))


def main(arguments: Sequence[str] | None = None) -> int:
    """Fill all documents; 1 when ``--check`` finds one that would change."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args(arguments).check
    changed = 0
    for path in documents():
        text = path.read_text()
        new = filled(text)
        if new != text:
            changed = 1
            print(path.relative_to(ROOT))
            if not check:
                path.write_text(new)
    return changed if check else 0


if __name__ == "__main__":
    sys.exit(main())
