"""What the engine's arguments `model` and `sharing` mean."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from transformers import PreTrainedModel

from lragent.sharing import Policy, SharingGroup

Sharing = str | Policy | Sequence[SharingGroup]


def model_name(model: str | Path | tuple[PreTrainedModel, object]) -> str:
    """The name that adapters state as their base model."""
    if isinstance(model, tuple):
        return str(model[0].config._name_or_path or "")
    return str(model)


def sharing_groups(sharing: Sharing, include_base_model: bool | None) -> Sequence[SharingGroup]:
    """The groups that the engine's `sharing` argument declares: for a policy, one that is open.

    Raises:
        ValueError: a policy of unknown name.
    """
    if not isinstance(sharing, str):
        return list(sharing)
    policy = Policy(sharing)
    if policy is Policy.ISOLATED:
        return []
    joins = policy.base_reads if include_base_model is None else include_base_model
    return [SharingGroup("default", (), policy, joins, open=True)]
