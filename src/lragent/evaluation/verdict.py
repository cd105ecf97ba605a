"""Which policy a group can share under, by what was measured and the user's limit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum

from pydantic import BaseModel, ConfigDict

import lragent
from lragent.adapters import Adapter, read_adapter
from lragent.evaluation.config import EvalConfig, Limit
from lragent.evaluation.summary import Cell
from lragent.sharing import Policy
from lragent.sharing.measured import MeasuredSharing, members_of


class Outcome(StrEnum):
    """Whether a policy keeps a role within the limit."""

    HOLDS = "holds"
    UNDECIDED = "undecided"
    EXCEEDS = "exceeds"


class Finding(BaseModel):
    """What a policy does to a role."""

    model_config = ConfigDict(frozen=True)

    policy: Policy
    role: str
    outcome: Outcome


class Verdict(BaseModel):
    """A recommendation.

    Attributes:
        policy: the fastest one that holds the limit for every role; `isolated` means not to share.
        findings: one for each policy and role.
        advice: what to try, if another policy would be faster.
    """

    model_config = ConfigDict(frozen=True)

    policy: Policy
    findings: tuple[Finding, ...]
    advice: tuple[str, ...]

    def save(self, config: EvalConfig) -> None:
        """Keep the policy in the adapters' folders, where `Engine(sharing="measured")` finds it.

        Raises:
            OSError: a folder cannot be written to.
        """
        adapters = {role: read_adapter(path) for role, path in config.adapters.items()}
        MeasuredSharing(
            policy=self.policy,
            members=members_of(adapters),
            base_model=config.model,
            nll_ratio=config.limit.nll_ratio,
            nll_nats=config.limit.nll_nats,
            exact_points=config.limit.exact_points,
            lragent=lragent.__version__,
        ).save(adapters)

    def __str__(self) -> str:
        if self.policy is Policy.ISOLATED:
            return "do not share: no policy holds the limit for every role"
        return f"share under {self.policy}"


def judge(cells: Sequence[Cell], limit: Limit, adapters: Mapping[str, Adapter]) -> Verdict | None:
    """The verdict from cells by policy and role; None when one is missing, as after Ctrl-C.

    The whole interval of the NLL ratio, or that of the NLL's loss in nats, has to lie within its
    limit. Exact outputs only speak against a policy, when their whole interval lies beyond the
    limit: half a point cannot be told from none with less than thousands of samples.
    """
    shared = [c for c in cells if c.policy in set(Policy) - {Policy.ISOLATED}]
    by_policy: dict[Policy, list[Cell]] = {}
    for cell in shared:
        by_policy.setdefault(Policy(cell.policy), []).append(cell)
    if not by_policy or any(len(found) < len(adapters) for found in by_policy.values()):
        return None
    findings = tuple(
        Finding(policy=policy, role=str(cell.role), outcome=_outcome(cell, limit))
        for policy, found in by_policy.items()
        for cell in found
    )
    holding = [p for p in by_policy if _all_hold(p, findings)]
    # `neutral` costs what `base+lr` does, and its answers depend on nobody's order.
    best = min(holding, key=lambda p: (cost(p), not p.base_reads), default=Policy.ISOLATED)
    faster = [p for p in by_policy if cost(p) < cost(best)]
    return Verdict(
        policy=best, findings=findings, advice=tuple(_advice(faster, findings, adapters))
    )


def cost(policy: Policy) -> tuple[bool, bool, bool]:
    """Orders policies by the work and the bytes that they take, the cheapest first."""
    own_pass = policy.has_slots and not policy.fills_all_slots
    return not policy.shares_base, own_pass, policy.has_slots


def _outcome(cell: Cell, limit: Limit) -> Outcome:
    ratio, loss = cell.nll_ratio, cell.nll_loss
    beyond = ratio.value > limit.nll_ratio and loss.value > limit.nll_nats
    if beyond or cell.exact_loss.low > limit.exact_points:
        return Outcome.EXCEEDS
    within = ratio.high <= limit.nll_ratio or loss.high <= limit.nll_nats
    return Outcome.HOLDS if within else Outcome.UNDECIDED


def _all_hold(policy: Policy, findings: Iterable[Finding]) -> bool:
    return all(f.outcome is Outcome.HOLDS for f in findings if f.policy is policy)


def _advice(
    faster: Sequence[Policy], findings: Sequence[Finding], adapters: Mapping[str, Adapter]
) -> Iterable[str]:
    """What may make a faster policy hold."""
    open_policies = [
        policy
        for policy in faster
        if not any(f.policy is policy and f.outcome is Outcome.EXCEEDS for f in findings)
    ]
    if open_policies:
        yield (
            f"Measure more samples: {', '.join(open_policies)} may hold the limit, but the "
            "intervals are too wide to tell."
        )
    if len(open_policies) < len(faster):
        yield from _changes(adapters)


def _changes(adapters: Mapping[str, Adapter]) -> Iterable[str]:
    """What to train otherwise."""
    others = [name for name, a in adapters.items() if a.trained_for != Policy.NEUTRAL]
    if others:
        yield (
            f"Train {', '.join(others)} for neutral (lragent train --for neutral): outputs are "
            "then learnt on contexts that the base model has read, as they are served."
        )
    targets = {module.projection for a in adapters.values() for module in a.modules.values()}
    if further := sorted(targets - {"q_proj", "k_proj", "v_proj"}):
        yield (
            f"Train with fewer targets: LoRA on {', '.join(further)} changes what later layers "
            "write to the cache more than q_proj and v_proj do."
        )
