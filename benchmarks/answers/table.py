"""Tables from a result file of `benchmarks.answers.run`, in Markdown.

    python -m benchmarks.answers.table results/answers.json

The first table has a row for each way to train, role, and condition it is served under; the second
compares roles trained and served under a policy with roles trained and served alone.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.answers.run import ROLES, read

Entry = Mapping[str, Any]
Key = tuple[str, ...]


def setting(entry: Entry) -> Key:
    """What a comparison holds fixed."""
    chosen = entry["settings"]
    targets = "all-linear" if len(chosen["targets"]) == 7 else ", ".join(chosen["targets"])
    return f"rank {chosen['rank']}, {targets}", f"{chosen['steps']} steps"


def grouped(entries: Sequence[Entry]) -> dict[tuple[Key, str], list[Entry]]:
    """The entries of all seeds, by setting and arm."""
    found: dict[tuple[Key, str], list[Entry]] = {}
    for entry in entries:
        found.setdefault((setting(entry), entry["settings"]["arm"]), []).append(entry)
    return found


def mean(entries: Sequence[Entry], role: str, condition: str, what: str) -> float:
    """Mean over the seeds."""
    return fmean(entry["scores"][role][condition][what] for entry in entries)


def score_rows(entries: Sequence[Entry]) -> Iterator[str]:
    """Every condition of every role."""
    yield "| adapters | trained | seeds | role | served | exact, % | NLL |"
    yield "|---|---|---|---|---|---|---|"
    for (held, arm), own in grouped(entries).items():
        for role in ROLES:
            for condition in own[0]["scores"][role]:
                exact, nll = (mean(own, role, condition, what) for what in ("exact", "nll"))
                yield (
                    f"| {'; '.join(held)} | {arm} | {len(own)} | {role} | {condition} "
                    f"| {exact:.1f} | {nll:.3f} |"
                )


def served_as_trained(arm: str, role: str, scores: Mapping[str, Any]) -> list[str]:
    """The conditions for which an arm was trained."""
    policy = arm.removesuffix("-joint").removesuffix("-own-a").removesuffix("-random")
    if policy == "base+lr" and not arm.endswith("-random") and role == ROLES[0]:
        return ["isolated"]  # the first role reads for itself
    found = [name for name in scores if name == policy or name.startswith(f"{policy}, ")]
    if policy == "base+lr" and not arm.endswith("-random"):
        return [name for name in found if name.endswith(f"read by {ROLES[0]}")]
    return found


def comparison_rows(entries: Sequence[Entry]) -> Iterator[str]:
    """Each arm as it was trained, against `isolated` of the same setting."""
    yield (
        "| adapters | trained | exact, points: mean | "
        + " | ".join(ROLES)
        + " | NLL, times: geometric mean | "
        + " | ".join(ROLES)
        + " |"
    )
    yield "|" + "---|" * (4 + 2 * len(ROLES))
    groups = grouped(entries)
    for (held, arm), own in groups.items():
        alone = groups.get((held, "isolated"))
        if alone is None or arm == "isolated":
            continue
        points, times = [], []
        for role in ROLES:
            conditions = served_as_trained(arm, role, own[0]["scores"][role])
            exact = fmean(mean(own, role, condition, "exact") for condition in conditions)
            nll = fmean(mean(own, role, condition, "nll") for condition in conditions)
            points.append(exact - mean(alone, role, "isolated", "exact"))
            times.append(nll / mean(alone, role, "isolated", "nll"))
        together = math.exp(fmean(map(math.log, times)))
        yield (
            f"| {'; '.join(held)} | {arm} | {fmean(points):+.1f} | "
            + " | ".join(f"{value:+.1f}" for value in points)
            + f" | {together:.2f} | "
            + " | ".join(f"{value:.2f}" for value in times)
            + " |"
        )


def main(words: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Print the tables of a result file.")
    parser.add_argument("results", type=Path)
    entries = read(parser.parse_args(words).results)
    print("\n".join([*comparison_rows(entries), "", *score_rows(entries)]))


if __name__ == "__main__":
    main()
