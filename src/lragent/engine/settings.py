"""What the engine's arguments `model` and `sharing` mean."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from transformers import PreTrainedModel

from lragent.engine import smollm
from lragent.sharing import Policy, SharingGroup

Sharing = str | Policy | Sequence[SharingGroup]


def model_name(model: str | Path | tuple[PreTrainedModel, object]) -> str:
    """The name that adapters state as their base model."""
    if isinstance(model, tuple):
        return str(model[0].config._name_or_path or "")
    return smollm.HUB_NAME if str(model) == smollm.ALIAS else str(model)


def sharing_groups(sharing: Sharing, include_base_model: bool) -> Sequence[SharingGroup]:
    """The groups that the engine's `sharing` argument declares: for a policy, one that is open.

    Raises:
        ValueError: a policy of unknown name.
    """
    if not isinstance(sharing, str):
        return list(sharing)
    policy = Policy(sharing)
    if policy is Policy.ISOLATED:
        return []
    return [SharingGroup("default", (), policy, include_base_model, open=True)]
