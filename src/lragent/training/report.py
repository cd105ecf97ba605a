"""What a training run did."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict


class RoleResult(BaseModel):
    """Training of one role.

    `first_loss` and `last_loss` are means over the first and last tenth of the steps; in mode
    `joint` they, `steps` and `seconds` are those of all roles together. `seconds` counts from the
    last start, when the run was interrupted. `losses` holds the loss of each step. `dropped`
    samples were longer than the limit.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    role: str
    samples: int
    dropped: int
    steps: int
    seconds: float
    first_loss: float
    last_loss: float
    eval_loss: float | None = None
    losses: tuple[float, ...] = ()
    device: str
    finished: str


@dataclass(frozen=True)
class TrainedRole:
    """One adapter of a finished run; `kept` when an earlier run of the same settings made it."""

    folder: str
    a_digests: dict[str, str]
    kept: bool
    result: RoleResult


@dataclass(frozen=True)
class TrainReport:
    """All adapters of a run, in the order of the roles."""

    out: str
    group: str
    mode: str
    roles: tuple[TrainedRole, ...]

    def to_json(self) -> dict[str, Any]:
        """The report as JSON values, one flat object a role."""
        roles = [
            {k: v for k, v in asdict(role).items() if k != "result"} | role.result.model_dump()
            for role in self.roles
        ]
        return asdict(self) | {"roles": roles}
