"""What the engine's arguments `model` and `sharing` mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from transformers import PreTrainedModel

from lragent.adapters.model import Adapter
from lragent.sharing import Policy, SharingGroup
from lragent.sharing.measured import MEASURED, measured_policy

Sharing = str | Policy | Sequence[SharingGroup]


def model_name(model: str | Path | tuple[PreTrainedModel, object]) -> str:
    """The name that adapters state as their base model."""
    if isinstance(model, tuple):
        return str(model[0].config._name_or_path or "")
    return str(model)


def sharing_groups(
    sharing: Sharing, include_base_model: bool | None, adapters: Mapping[str, Adapter]
) -> Sequence[SharingGroup]:
    """The groups that the engine's `sharing` argument declares.

    For a policy, one that is open; for `measured`, one of exactly these `adapters`, since it was
    measured for no others.

    Raises:
        ValueError: a policy of unknown name.
        MeasuredSharingError: nothing was measured for these adapters.
    """
    if not isinstance(sharing, str):
        return list(sharing)
    measured = sharing == MEASURED
    policy = measured_policy(adapters) if measured else Policy(sharing)
    if policy is Policy.ISOLATED:
        return []
    joins = policy.base_reads if include_base_model is None else include_base_model
    members = tuple(adapters) if measured else ()
    return [SharingGroup("default", members, policy, joins, open=not measured)]
