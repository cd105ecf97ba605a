"""Tables of a result file of `benchmarks.answers.run`; see `benchmarks.tables`."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from benchmarks.answers import ROLES

CUES = {
    r'neutral-cue "\n"': "neutral, line",
    r'neutral-cue "\nObservation"': "neutral, page",
}

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
    return f"{chosen['rank']}; {targets}", str(chosen["steps"])


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
    """Exact outputs in percent, of each role in each way to train; of readers best and worst."""
    conditions = ("isolated", "neutral", "base+lr", "full")
    table = [["rank; LoRA on", "trained for", "seeds", "role", *conditions]]
    for ((held, _), arm), own in grouped(result["entries"]).items():
        for role in ROLES:
            cells = []
            for condition in conditions:
                found = [
                    mean(own, role, name, "exact")
                    for name in own[0]["scores"][role]
                    if name == condition or name.startswith(f"{condition}, ")
                ]
                ends = dict.fromkeys((max(found), min(found)))
                cells.append(" / ".join(f"{value:.1f}" for value in ends))
            table.append([held, named(arm), str(len(own)), role, *cells])
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
    table = [["rank; on", "trained", "own", "seeds", *heads]]
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
        table.append([held[0], named(arm), own_tokens(arm, own), str(len(seeds)), *cells])
    return table


def named(arm: str) -> str:
    """An arm in words."""
    return CUES.get(arm, arm)


def own_tokens(arm: str, entries: Sequence[Entry]) -> str:
    """How many tokens of a prompt a role computes itself, where the results say so."""
    found = [
        score["own_prompt_tokens"]
        for entry in entries
        for role, scores in entry["scores"].items()
        for condition, score in scores.items()
        if condition in served_as_trained(arm, role, scores) and "own_prompt_tokens" in score
    ]
    return f"{fmean(found):.0f}" if found else ""
