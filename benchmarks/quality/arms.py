"""Ways to train the roles, and under which policies they answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lragent.sharing.policies import Policy

ROLES = ("plan", "act", "reflect")

# All roles continue one assistant's message, so each acts from its prompt's last token on, or from
# the page that was found last: from the answer's header on the whole trajectory would be its turn,
# which is shared with nobody.
TRAININGS: dict[str, dict[str, Any]] = {
    "isolated": {"trained_for": "isolated"},
    "neutral": {"trained_for": "neutral", "acting_text": ""},
    "neutral-page": {"trained_for": "neutral", "acting_text": "\nObservation"},
    "base+lr": {"trained_for": "base+lr"},
    "isolated-own-a": {"trained_for": "isolated", "mode": "separate"},
    "neutral-own-a": {"trained_for": "neutral", "acting_text": "", "mode": "separate"},
    "base+lr-random": {"trained_for": "base+lr", "mode": "joint", "readers": "random"},
}


@dataclass(frozen=True)
class Arm:
    """Who answers: roles of one training (None: the base model in every role), under a policy."""

    training: str | None
    policy: Policy


BASE_MODEL = "base model"
REFERENCE = "isolated/isolated"
"""Against this every arm is compared: ordinary training, nothing shared."""

ANSWER_ARMS: dict[str, Arm] = {
    BASE_MODEL: Arm(None, Policy.ISOLATED),
    **{f"isolated/{policy.value}": Arm("isolated", policy) for policy in Policy},
    **{f"{name}/neutral": Arm(name, Policy.NEUTRAL) for name in ("neutral", "neutral-page")},
    "base+lr/base+lr": Arm("base+lr", Policy.BASE_LR),
    **{
        f"isolated-own-a/{policy.value}": Arm("isolated-own-a", policy)
        for policy in (Policy.ISOLATED, Policy.BASE_LR)
    },
    "neutral-own-a/neutral": Arm("neutral-own-a", Policy.NEUTRAL),
    "base+lr-random/base+lr": Arm("base+lr-random", Policy.BASE_LR),
}


def seeded(name: str, seed: int) -> str:
    """A training or an arm, trained with a seed: the name alone is of seed 0."""
    return f"{name}@{seed}" if seed else name


def unseeded(name: str) -> tuple[str, int]:
    """The training's or arm's own name, and its seed."""
    own, _, seed = name.partition("@")
    return own, int(seed or 0)


def file_of(name: str) -> str:
    """An arm's or a step's name as a file's."""
    return name.replace("/", "--").replace(" ", "-")
