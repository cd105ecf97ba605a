"""Tables of result files of `benchmarks.serving`; see `benchmarks.tables`."""

from __future__ import annotations

import re

from benchmarks.common.table import Json, Table, number

NAMES = {
    "stock": "stock, 3 adapters",
    "stock-targets": "with targets, 3",  # --lora-target-modules
    "stock-one": "stock, 1 adapter",
    "stock-targets-one": "with targets, 1",
    "isolated-one": "`isolated`, 1 adapter",
}
Found = dict[tuple[str, str, str], Json]


def serving_rows(result: Json) -> Found:
    """Rows by part, case and policy. Files of 2026-11 call ``stock-one`` by its name of then."""
    return {
        (row["part"], row["case"], row["policy"].replace("bound", "stock-one")): row
        for row in result["rows"]
    }


def policies_of(rows: Found, part: str) -> list[str]:
    """Policies that a part was measured under, stock first."""
    found = dict.fromkeys(policy for of, _, policy in rows if of == part)
    return sorted(found, key=lambda name: (not name.startswith("stock"), name != "stock"))


def cases_of(rows: Found, part: str) -> list[str]:
    """Cases of a part, by the first number in their names."""
    found = dict.fromkeys(case for of, case, _ in rows if of == part)
    return sorted(found, key=lambda case: float(re.findall(r"[\d.]+", case)[0]))


def named(policy: str) -> str:
    """A policy as the head of a column."""
    return NAMES.get(policy, f"`{policy}`")


def ratio(row: Json | None, other: Json | None, measure: str) -> str:
    """One measure of a row divided by another's."""
    if not row or not other or not row[measure] or not other[measure]:
        return ""
    return f"{row[measure] / other[measure]:.2f}"


SHARED = ("base+lr", "neutral", "neutral-page")


def handover(result: Json) -> Table:
    """TTFT of a context that another adapter has read."""
    rows = serving_rows(result)
    stock = [p for p in policies_of(rows, "handover") if p.startswith("stock") and "-one" not in p]
    heads = ["context", *map(named, stock), "policy", "hand-over", "same"]
    table = [[*heads, "ratio", "paired"]]
    for length in lengths_of(rows):
        theirs = [rows["handover", f"other, {length}", policy] for policy in stock]
        for policy in SHARED:
            other = rows.get(("handover", f"other, {length}", policy))
            if other is None:
                continue
            same = rows["handover", f"same, {length}", policy]
            times = [f"{number(row['ttft_ms'])} ms" for row in [*theirs, other, same]]
            times.insert(len(stock), named(policy))
            pair = [ratio(other, same, "ttft_ms"), number(other.get("over_same"))]
            table.append([f"{length:,}", *times, *pair])
    return table


def cold(result: Json) -> Table:
    """TTFT of a context that nobody has read, divided by that of the bare base model."""
    rows = serving_rows(result)
    lengths = lengths_of(rows)
    bare = [rows["handover", f"cold, no adapter, {length}", "stock"] for length in lengths]
    table = [["tokens", *(f"{length:,}" for length in lengths)]]
    table.append(["no adapter", *(f"{number(row['ttft_ms'])} ms" for row in bare)])
    for policy in policies_of(rows, "handover"):
        if "-one" not in policy:
            mine = [rows.get(("handover", f"cold, {length}", policy)) for length in lengths]
            pairs = zip(mine, bare, strict=True)
            table.append([named(policy), *(ratio(row, peer, "ttft_ms") for row, peer in pairs)])
    return table


def lengths_of(rows: Found) -> list[int]:
    """Contexts of the hand-overs, in tokens."""
    return sorted({row["context"] for (part, _, _), row in rows.items() if part == "handover"})


def chat(result: Json) -> Table:
    """TTFT of chat messages over HTTP."""
    rows = serving_rows(result)
    policies = policies_of(rows, "chat")
    table = [["tokens, request", *map(named, policies)]]
    for case in dict.fromkeys(case for _, case, _ in rows):
        found = [rows.get(("chat", case, policy)) for policy in policies]
        times = ["" if row is None else f"{number(row['ttft_ms'])} ms" for row in found]
        table.append([case.replace(" ", ", ", 1), *times])
    return table


def workflow(result: Json) -> Table:
    """Throughput and median TTFT of workflows."""
    rows = serving_rows(result)
    table = [["sessions x tokens", "", "tokens/s", "TTFT"]]
    for case in cases_of(rows, "workflow"):
        for policy in policies_of(rows, "workflow"):
            if row := rows.get(("workflow", case, policy)):
                cells = [number(row["tokens_per_s"]), f"{number(row['ttft_ms'])} ms"]
                table.append([case, named(policy), *cells])
    return table


def overhead(result: Json) -> Table:
    """The plugin under ``isolated`` divided by stock vLLM with as many adapters."""
    rows = serving_rows(result)
    one = "-one" if any(policy == "isolated-one" for _, _, policy in rows) else ""
    mine, peer = f"isolated{one}", f"stock{one}"
    table = [["", "throughput", "TTFT"]]
    kinds = {"cold": "new context", "other": "read by another adapter", "same": "warm context"}
    cases = [("workflow", f"workflow, {case}", case) for case in cases_of(rows, "workflow")]
    for kind, name in kinds.items():
        cases += [("handover", f"{name}, {n:,} tokens", f"{kind}, {n}") for n in lengths_of(rows)]
    for part, name, case in cases:
        a, b = rows.get((part, case, mine)), rows.get((part, case, peer))
        table.append([name, ratio(a, b, "tokens_per_s"), ratio(a, b, "ttft_ms")])
    return table


def trace(result: Json) -> Table:
    """LRAgent's trace: throughput, and the sum of its 17 TTFT in seconds."""
    rows = serving_rows(result)
    policies = policies_of(rows, "trace")
    table = [["tokens", *map(named, policies)]]
    for case in cases_of(rows, "trace"):
        found = [rows.get(("trace", case, policy)) for policy in policies]
        cells = [
            "" if row is None else f"{row['tokens_per_s']:,.0f}, {row['ttft_ms'] / 1000:.2f}"
            for row in found
        ]
        table.append([f"{int(case):,}", *cells])
    return table


def open_loop(result: Json) -> Table:
    """Trajectories that arrive at random: p90 of TTFT, and the median time of a trajectory."""
    rows = serving_rows(result)
    policies = policies_of(rows, "open")
    table = [["arrivals/s", *map(named, policies)]]
    for case in cases_of(rows, "open"):
        found = [rows.get(("open", case, policy)) for policy in policies]
        cells = [
            ""
            if row is None
            else f"{number(row['ttft_p90_ms'])} ms, {row['trajectory_p50_s']:.1f} s"
            for row in found
        ]
        table.append([case.removesuffix("/s"), *cells])
    return table


def old_new(result: Json) -> Table:
    """Two source trees in turns."""
    table = [["part", "case", "policy", "measure", "old", "new", "new / old", "paired"]]
    for entry in result["new_over_old"]:
        table.append(
            [
                entry["part"], entry["case"], f"`{entry['policy']}`",
                {"ttft_ms": "TTFT, ms", "tokens_per_s": "tokens/s"}[entry["measure"]],
                number(entry["old"]), number(entry["new"]), f"{entry['ratio']:.3f}",
                f"{entry['paired']:.3f}" if "paired" in entry else "",
            ]
        )  # fmt: skip
    return table
