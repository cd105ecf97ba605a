"""Which adapters can share what, and why not: the content of ``lragent inspect``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from itertools import combinations
from typing import Any

import torch

from lragent.adapters.checks import short_model_name
from lragent.adapters.model import CACHED_PROJECTIONS, Adapter, LoraModule
from lragent.sharing.policies import Policy
from lragent.sharing.slots import can_share, plan_slots, slots_needed


@dataclass(frozen=True)
class TargetSummary:
    """LoRA on one projection: how many layers have it, and the values that occur."""

    layers: int
    ranks: tuple[int, ...]
    scalings: tuple[float, ...]


@dataclass(frozen=True)
class AdapterSummary:
    """One adapter. Digests are SHA-256 in hex; the path is for the reader only."""

    name: str
    path: str
    base_model: str | None
    rank: int
    targets: Mapping[str, TargetSummary]
    digest: str
    a_digests: Mapping[str, str]
    slot_digest: str | None
    notes: tuple[str, ...]


@dataclass(frozen=True)
class PairSummary:
    """What two adapters can share inside a group.

    Attributes:
        first, second: their names.
        same_content: equal digests: even isolated they read the same pages.
        shares_base: K and V_base can be shared (every policy but ``isolated``).
        shares_slot: they read one LR slot, as after shared-A training (``neutral``, ``base+lr``).
        reasons: what stands in the way of the parts that they cannot share.
    """

    first: str
    second: str
    same_content: bool
    shares_base: bool
    shares_slot: bool
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class ProposedGroup:
    """A sharing group that these adapters could form.

    Attributes:
        members: names of adapters.
        base_model: their base model.
        slots: LR slots on each page under ``neutral`` and ``base+lr``.
        relative_bytes: for each policy, cache bytes of one token when every member has seen it,
            relative to ``isolated`` (page padding left out).
    """

    members: tuple[str, ...]
    base_model: str
    slots: int
    relative_bytes: Mapping[str, float]


@dataclass(frozen=True)
class AdapterReport:
    """The answer of ``lragent inspect``."""

    adapters: tuple[AdapterSummary, ...]
    pairs: tuple[PairSummary, ...] = ()
    groups: tuple[ProposedGroup, ...] = field(default=())

    def to_json(self) -> dict[str, Any]:
        """The report in plain dicts, lists, strings and numbers."""
        return asdict(self)


def _summary(name: str, adapter: Adapter) -> AdapterSummary:
    by_projection: dict[str, list[LoraModule]] = {}
    for module in adapter.modules.values():
        by_projection.setdefault(module.projection, []).append(module)
    targets = {
        projection: TargetSummary(
            layers=len({module.layer for module in modules}),
            ranks=tuple(sorted({module.rank for module in modules})),
            scalings=tuple(sorted({module.scaling for module in modules})),
        )
        for projection, modules in sorted(by_projection.items())
    }
    return AdapterSummary(
        name=name,
        path=str(adapter.path),
        base_model=adapter.base_model,
        rank=adapter.rank,
        targets=targets,
        digest=adapter.digest,
        a_digests=dict(adapter.a_digests),
        slot_digest=adapter.slot_digest,
        notes=adapter.notes,
    )


def _base_obstacle(names: tuple[str, str], first: Adapter, second: Adapter) -> str | None:
    for name, adapter in zip(names, (first, second), strict=True):
        if adapter.base_model is None:
            return f"{name} does not say which base model it belongs to"
    assert first.base_model is not None
    assert second.base_model is not None
    if short_model_name(first.base_model) != short_model_name(second.base_model):
        return f"other base model: {first.base_model} and {second.base_model}"
    for name in first.modules.keys() & second.modules.keys():
        one, other = first.modules[name], second.modules[name]
        if (one.a.shape[1], one.b.shape[0]) != (other.a.shape[1], other.b.shape[0]):
            return f"other base model: {name} has another size"
    return None


def _slot_obstacles(names: tuple[str, str], first: Adapter, second: Adapter) -> list[str]:
    alora = [n for n, a in zip(names, (first, second), strict=True) if a.is_alora]
    if alora:
        return [f"aLoRA ({' and '.join(alora)}): shares under neutral only, needs no LR slot"]
    if first.slot_digest is None and second.slot_digest is None:
        return ["neither has LoRA on k_proj or v_proj, so no LR slot is needed"]
    obstacles = []
    for projection in CACHED_PROJECTIONS:
        one, other = (
            {m.layer: m.a for m in adapter.modules.values() if m.projection == projection}
            for adapter in (first, second)
        )
        if bool(one) != bool(other):
            obstacles.append(f"only {names[0 if one else 1]} has LoRA on {projection}")
            continue
        layers = one.keys() | other.keys()
        differing = [n for n in layers if not _same_values(one.get(n), other.get(n))]
        if not differing:
            continue
        ranks = (first.rank_of(projection), second.rank_of(projection))
        dtypes = [_dtypes(one), _dtypes(other)]
        if ranks[0] != ranks[1]:
            why = f"; ranks {ranks[0]} and {ranks[1]}"
        elif dtypes[0] != dtypes[1]:
            why = f"; stored as {dtypes[0]} and {dtypes[1]}"
        else:
            why = ""
        obstacles.append(
            f"A of {projection} differs in {len(differing)} of {len(layers)} layers{why}"
        )
    return obstacles


def _dtypes(matrices: Mapping[int, torch.Tensor]) -> str:
    return "/".join(sorted({str(a.dtype).removeprefix("torch.") for a in matrices.values()}))


def _same_values(one: torch.Tensor | None, other: torch.Tensor | None) -> bool:
    if one is None or other is None:
        return False
    return one.dtype == other.dtype and torch.equal(one, other)


def _pair(names: tuple[str, str], first: Adapter, second: Adapter) -> PairSummary:
    base = _base_obstacle(names, first, second)
    reasons = _slot_obstacles(names, first, second)
    same_slot = first.slot_digest is not None and first.slot_digest == second.slot_digest
    return PairSummary(
        first=names[0],
        second=names[1],
        same_content=base is None and first.digest == second.digest,
        shares_base=base is None,
        shares_slot=base is None and same_slot,
        reasons=tuple(reasons if base is None else [base]),
    )


def _kv_width(adapters: Mapping[str, Adapter]) -> int | None:
    """Numbers that K and V_base of one token take, read off the up-projections."""
    for adapter in adapters.values():
        for module in adapter.modules.values():
            if module.projection in CACHED_PROJECTIONS:
                return 2 * module.b.shape[0]
    return None


def _cached_rank(adapter: Adapter, projection: str) -> int:
    return 0 if adapter.slot_digest is None else adapter.rank_of(projection)


def _proposal(members: Mapping[str, Adapter]) -> ProposedGroup:
    slots = {
        policy: slots_needed(plan_slots(policy, members.values()))
        for policy in Policy
        if policy.shares_base and all(can_share(policy, a) for a in members.values())
    }
    slot_width = sum(
        max(_cached_rank(adapter, projection) for adapter in members.values())
        for projection in CACHED_PROJECTIONS
    )
    width = _kv_width(members)
    # Without any cached term the pages hold K and V only, whatever their width.
    kv = width if width is not None else 1
    isolated = sum(
        kv + sum(_cached_rank(adapter, projection) for projection in CACHED_PROJECTIONS)
        for adapter in members.values()
    )
    relative = {
        policy.value: (kv + count * slot_width) / isolated for policy, count in slots.items()
    }
    base_model = next(iter(members.values())).base_model
    assert base_model is not None, "adapters without a stated base model are not grouped"
    return ProposedGroup(tuple(members), base_model, slots[Policy.NEUTRAL], relative)


def compare_adapters(adapters: Mapping[str, Adapter]) -> AdapterReport:
    """Compare adapters pair by pair, and propose the groups that they could form.

    Adapters share only inside a group that the user declares; the report says what is possible,
    and nothing about how well shared adapters answer.
    """
    pairs = [
        _pair((first, second), adapters[first], adapters[second])
        for first, second in combinations(adapters, 2)
    ]
    clusters: list[list[str]] = []
    together = {frozenset((p.first, p.second)) for p in pairs if p.shares_base}
    for name in adapters:
        for cluster in clusters:
            if all(frozenset((name, other)) in together for other in cluster):
                cluster.append(name)
                break
        else:
            clusters.append([name])
    return AdapterReport(
        adapters=tuple(_summary(name, adapter) for name, adapter in adapters.items()),
        pairs=tuple(pairs),
        groups=tuple(
            _proposal({name: adapters[name] for name in cluster})
            for cluster in clusters
            if len(cluster) > 1
        ),
    )
