"""Tables of a result file of `benchmarks.answers.run`; see `benchmarks.tables`."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from benchmarks.answers import ROLES

Entry = Mapping[str, Any]
Key = tuple[str, ...]


def setting(entry: Entry) -> Key:
    """What a comparison holds fixed."""
    chosen = entry["settings"]
    targets = (
        "all-linear"
        if len(chosen["targets"]) == 7
        else ", ".join(name.removesuffix("_proj") for name in chosen["targets"])
    )
    return f"rank {chosen['rank']}, {targets}", str(chosen["steps"])


def grouped(entries: Sequence[Entry]) -> dict[tuple[Key, str], list[Entry]]:
    """The entries of all seeds, by setting and arm (with its cue)."""
    found: dict[tuple[Key, str], list[Entry]] = {}
    for entry in entries:
        chosen = entry["settings"]
        arm = chosen["arm"] + (f" {json.dumps(chosen['cue'])}" if "cue" in chosen else "")
        found.setdefault((setting(entry), arm), []).append(entry)
    return found


def mean(entries: Sequence[Entry], role: str, condition: str, what: str) -> float:
    """Mean over the seeds."""
    return fmean(entry["scores"][role][condition][what] for entry in entries)


def scores(result: Mapping[str, Any]) -> list[list[str]]:
    """Every condition of every role, for each way to train."""
    table = [["adapters", "trained for", "seeds", "role", "served", "exact, %", "NLL"]]
    for (held, arm), own in grouped(result["entries"]).items():
        for role in ROLES:
            for condition in own[0]["scores"][role]:
                exact, nll = (mean(own, role, condition, what) for what in ("exact", "nll"))
                which = ["; ".join(held), arm, str(len(own)), role, condition]
                table.append([*which, f"{exact:.1f}", f"{nll:.3f}"])
    return table


def served_as_trained(arm: str, role: str, scores: Mapping[str, Any]) -> list[str]:
    """The conditions for which an arm was trained."""
    policy = arm.split()[0].removesuffix("-joint").removesuffix("-own-a").removesuffix("-random")
    policy = policy.removesuffix("-header").removesuffix("-cue")
    if policy == "base+lr" and not arm.endswith("-random") and role == ROLES[0]:
        return ["isolated"]  # the first role reads for itself
    found = [name for name in scores if name == policy or name.startswith(f"{policy}, ")]
    if policy == "base+lr" and not arm.endswith("-random"):
        return [name for name in found if name.endswith(f"read by {ROLES[0]}")]
    return found


def compared(result: Mapping[str, Any]) -> list[list[str]]:
    """Roles as trained, against those trained and served alone: same setting and seeds."""
    heads = ["points", *ROLES, "NLL", *ROLES]
    table = [["adapters", "trained for", "seeds", *heads]]
    groups = grouped(result["entries"])
    for (held, arm), own in groups.items():
        seeds = {entry["settings"]["seed"] for entry in own}
        isolated = groups.get((held, "isolated"), [])
        alone = [entry for entry in isolated if entry["settings"]["seed"] in seeds]
        if len(alone) < len(seeds) or arm == "isolated":
            continue
        points, times = [], []
        for role in ROLES:
            conditions = served_as_trained(arm, role, own[0]["scores"][role])
            exact = fmean(mean(own, role, condition, "exact") for condition in conditions)
            nll = fmean(mean(own, role, condition, "nll") for condition in conditions)
            points.append(exact - mean(alone, role, "isolated", "exact"))
            times.append(nll / mean(alone, role, "isolated", "nll"))
        together = math.exp(fmean(map(math.log, times)))
        cells = [f"{value:+.1f}" for value in (fmean(points), *points)]
        cells += [f"{value:.2f}" for value in (together, *times)]
        table.append(["; ".join(held), named(arm, own), str(len(seeds)), *cells])
    return table


def named(arm: str, entries: Sequence[Entry]) -> str:
    """The arm, and where results say so, how many prompt tokens a role of it computes itself."""
    found = [
        score["own_prompt_tokens"]
        for entry in entries
        for role, scores in entry["scores"].items()
        for condition, score in scores.items()
        if condition in served_as_trained(arm, role, scores) and "own_prompt_tokens" in score
    ]
    return f"{arm} ({fmean(found):.1f} prompt tokens of its own)" if found else arm
