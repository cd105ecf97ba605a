"""The tables of the answers' benchmark, on made-up scores."""

from __future__ import annotations

from typing import Any

from benchmarks.answers.table import compared, scores
from benchmarks.tables import markdown

POLICIES = ("base+lr", "full")
ROLES = ("plan", "act", "reflect")


def entry(arm: str, seed: int, scores: dict[str, tuple[float, float]]) -> dict[str, Any]:
    """An entry in which conditions that are not given are bad."""
    settings = {"arm": arm, "seed": seed, "rank": 8, "targets": ["q_proj", "v_proj"], "steps": 300}
    rows: dict[str, Any] = {}
    for role in ROLES:
        names = ["isolated", "neutral"]
        names += [f"{p}, read by {r}" for p in POLICIES for r in ROLES if r != role]
        rows[role] = {}
        for name in names:
            exact, nll = scores.get(f"{role}: {name}", scores.get(name, (0.0, 9.0)))
            rows[role][name] = {"exact": exact, "nll": nll}
    return {"settings": settings, "scores": rows}


def test_arms_with_other_cues_are_told_apart_with_their_own_prompt_tokens() -> None:
    entries = [entry("isolated", 0, {"isolated": (60.0, 0.1)})]
    for cue, own in (("\n", 7.0), ("Obs", 40.0)):
        entries.append(entry("neutral-cue", 0, {"neutral": (60.0, 0.1)}))
        entries[-1]["settings"]["cue"] = cue
        for scores_of in entries[-1]["scores"].values():
            scores_of["neutral"]["own_prompt_tokens"] = own
    _, *rows = compared({"entries": entries})
    assert [row[1:3] for row in rows] == [
        ["neutral, line", "7"],
        ['neutral-cue "Obs"', "40"],
    ]
    assert [row[4] for row in rows] == ["+0.0", "+0.0"]


def test_each_arm_is_compared_as_it_was_trained() -> None:
    entries = [
        entry("isolated", 0, {"isolated": (60.0, 0.1)}),
        entry("isolated", 1, {"isolated": (62.0, 0.1)}),
        entry("neutral", 0, {"neutral": (60.0, 0.1), "act: neutral": (63.0, 0.8)}),
        entry(
            "base+lr",
            0,
            {
                "plan: isolated": (61.0, 0.1),
                "act: base+lr, read by plan": (58.0, 0.1),
                "reflect: base+lr, read by plan": (61.0, 0.2),
            },
        ),
        entry(
            "base+lr-random",
            0,
            {
                **{f"base+lr, read by {reader}": (61.0, 0.1) for reader in ROLES},
                "act: base+lr, read by reflect": (51.0, 0.3),
            },
        ),
    ]
    result = {"entries": entries}
    printed = "\n".join([markdown(compared(result)), markdown(scores(result))])

    held = "| 8; q, v |"
    assert (
        f"{held} neutral |  | 1 | +1.0 | +0.0 | +3.0 | +0.0 | 2.00 | 1.00 | 8.00 | 1.00 |"
        in printed
    )
    assert (
        f"{held} base+lr |  | 1 | +0.0 | +1.0 | -2.0 | +1.0 | 1.26 | 1.00 | 1.00 | 2.00 |"
        in printed
    )
    assert (
        f"{held} base+lr-random |  | 1 | -0.7 | +1.0 | -4.0 | +1.0 | 1.26 | 1.00 | 2.00 | 1.00 |"
        in printed
    )
    assert f"{held} isolated | 2 | plan | 61.0 | 0.0 | 0.0 | 0.0 |" in printed
    assert f"{held} base+lr | 1 | act | 0.0 | 0.0 | 58.0 / 0.0 | 0.0 |" in printed
    assert f"{held} neutral | 1 | act | 0.0 | 63.0 | 0.0 | 0.0 |" in printed
