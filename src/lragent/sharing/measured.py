"""lragent-measured.json: the sharing policy that an evaluation recommends for a group of adapters.

Each member's folder gets a copy, bound to the contents of all members.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lragent.adapters.errors import AdapterError
from lragent.adapters.model import Adapter
from lragent.files import write_atomically
from lragent.sharing.policies import Policy

MEASURED_FILE = "lragent-measured.json"
MEASURED = "measured"
"""Stands for the policy in that file, where a policy is named."""


class MeasuredSharingError(AdapterError):
    """There is no measured policy for exactly these adapters."""


class MeasuredSharing(BaseModel):
    """What an evaluation found.

    Attributes:
        schema_: version of the file.
        policy: the recommended policy; `isolated` says not to share.
        members: digests of all adapters of the group, sorted.
        base_model: the model that they were measured on.
        nll_ratio, nll_nats, exact_points: the limit that the recommendation goes by.
        lragent: version that measured.
    """

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    schema_: Literal[1] = Field(default=1, alias="schema")
    policy: Policy
    members: list[str]
    base_model: str
    nll_ratio: float
    nll_nats: float = 0.0
    exact_points: float
    lragent: str

    def save(self, adapters: Mapping[str, Adapter]) -> None:
        """Write the file into each adapter's folder.

        Raises:
            OSError: a folder cannot be written to.
        """
        text = self.model_dump_json(indent=2, by_alias=True) + "\n"
        for adapter in adapters.values():
            write_atomically(adapter.path / MEASURED_FILE, text)


def members_of(adapters: Mapping[str, Adapter]) -> list[str]:
    """What tells a group from any other: its members' digests, sorted."""
    return sorted(adapter.digest for adapter in adapters.values())


def measured_policy(adapters: Mapping[str, Adapter]) -> Policy:
    """The policy measured for the group of `adapters`.

    Raises:
        MeasuredSharingError: a file is missing or damaged, is about other weights or another
            group, or two of them differ.
    """
    named = " ".join(f"--adapter {name}={a.path}" for name, a in adapters.items())
    again = f"measure again with: lragent eval --save {named} --model MODEL"
    found = {name: _read(a.path / MEASURED_FILE, again) for name, a in adapters.items()}
    for name, measured in found.items():
        if adapters[name].digest not in measured.members:
            raise MeasuredSharingError(
                f"the weights of adapter {name!r} are not those that were measured; {again}"
            )
    if any(measured.members != members_of(adapters) for measured in found.values()):
        raise MeasuredSharingError(f"the adapters were measured in another group; {again}")
    policies = {measured.policy for measured in found.values()}
    if len(policies) != 1:
        raise MeasuredSharingError(f"the adapters' measurements name different policies; {again}")
    return policies.pop()


def _read(path: Path, again: str) -> MeasuredSharing:
    try:
        return MeasuredSharing.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise MeasuredSharingError(f"there is no {path}; {again}") from error
    except (OSError, ValidationError) as error:
        raise MeasuredSharingError(f"{path} cannot be used: {error}; {again}") from error
