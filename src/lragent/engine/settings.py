"""What the engine's arguments `model` and `sharing` mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from transformers import PreTrainedModel

from lragent.adapters.groups import SharingGroup
from lragent.adapters.model import Adapter
from lragent.cache.policies import Policy
from lragent.engine import smollm

Sharing = str | Policy | Sequence[SharingGroup]


def model_name(model: str | Path | tuple[PreTrainedModel, object]) -> str:
    """The name that adapters state as their base model."""
    if isinstance(model, tuple):
        return str(model[0].config._name_or_path or "")
    return smollm.HUB_NAME if str(model) == smollm.ALIAS else str(model)


def sharing_groups(
    sharing: Sharing, adapters: Mapping[str, Adapter], include_base_model: bool | None
) -> Sequence[SharingGroup]:
    """The groups that the engine's `sharing` argument declares.

    Raises:
        ValueError: a policy of unknown name.
    """
    if not isinstance(sharing, str):
        return list(sharing)
    try:
        policy = Policy(sharing)
    except ValueError:
        known = ", ".join(p.value for p in Policy)
        raise ValueError(f"sharing={sharing!r} is none of {known}") from None
    if policy is Policy.ISOLATED or not adapters:
        return []
    joins = policy is Policy.NEUTRAL if include_base_model is None else include_base_model
    return [SharingGroup("default", tuple(adapters), policy, joins)]
