"""Policy ``measured``: the one that ``lragent eval --save`` has written beside the adapters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lragent.adapters import AdapterError, read_adapter
from lragent.files import expanded
from lragent.sharing.measured import MEASURED, measured_policy, members_of
from lragent.sharing.policies import Policy
from lragent.vllm.errors import PluginError


def resolve_measured(option: Any) -> Any:
    """The option with a measured policy in place of the word ``measured``.

    A group gets the digests of the weights that were measured, too, so that others are refused when
    they are loaded. What is no option is returned as it is; checking it is not done here.

    Raises:
        PluginError: the folder of a member is not named, or nothing was measured for exactly these
            adapters.
    """
    if not isinstance(option, Mapping) or not isinstance(option.get("groups", ()), list | tuple):
        return option
    default = option.get("policy")
    groups = [_resolved(group, default, option) for group in option.get("groups", ())]
    policy = {"policy": Policy.ISOLATED.value} if default == MEASURED else {}
    return {**option, **policy, "groups": groups} if groups else {**option, **policy}


def _resolved(group: Any, default: Any, option: Mapping[str, Any]) -> Any:
    named = {"members": group} if isinstance(group, list | tuple) else group
    if not isinstance(named, Mapping) or (named.get("policy") or default) != MEASURED:
        return group
    folders = option.get("adapters") or {}
    members = named.get("members") or ()
    if missing := [name for name in members if name not in folders]:
        raise PluginError(
            f"lragent: policy measured needs the folder of {', '.join(missing)}: name it in the "
            'option, "adapters": {NAME: FOLDER}'
        )
    try:
        adapters = {name: read_adapter(expanded(folders[name])) for name in members}
        policy = measured_policy(adapters)
    except AdapterError as error:
        raise PluginError(f"lragent: policy measured: {error}") from error
    return {**named, "policy": policy.value, "measured": members_of(adapters)}
