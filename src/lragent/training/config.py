"""Settings of a training run."""

from __future__ import annotations

import json
import shlex
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Role = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]*$")]


class Mode(StrEnum):
    """How the roles' adapters come to share their down-projection A (paper, "Schemes")."""

    SHARED_A = "shared-a"
    """The first role is trained normally; the others with its A copied and frozen."""
    JOINT = "joint"
    """All roles are trained together, with one A that each of them changes."""
    SEPARATE = "separate"
    """Ordinary adapters, each with its own A."""


class TrainedFor(StrEnum):
    """The sharing policy that training computes as serving will."""

    NEUTRAL = "neutral"
    """The base model reads each context; the role acts in its turn."""
    BASE_LR = "base+lr"
    """A member of the group reads each context; the role acts likewise."""
    ISOLATED = "isolated"
    """The role computes everything itself."""


class TrainConfig(BaseModel):
    """Settings of a training run; rank, alpha, dropout and schedule are the paper's by default.

    `readers` says, under `base+lr`, who reads the contexts: the first role, or a member drawn anew
    for each batch. `shared_projections` are the targets whose A the roles share: those whose output
    is cached. `acting_text` is the part of a prompt from whose last occurrence on a role acts under
    `neutral`; what follows it is not shared. None is the text with which a tool's output begins
    (`acting.TOOL_OUTPUTS`), if a quarter of the prompts hold one; else, and with "", roles act from
    the prompt's last token on.
    `max_steps`, where given, replaces `epochs`; it counts the optimiser steps of one role, and of
    all roles together in mode `joint`. Samples longer than `max_length` tokens are left out.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    data: tuple[Path, ...] = Field(min_length=1)
    model: str
    out: Path
    trained_for: TrainedFor = TrainedFor.NEUTRAL
    readers: Literal["first", "random"] = "first"
    acting_text: str | None = None
    mode: Mode = Mode.SHARED_A
    roles: tuple[Role, ...] = Field(default=("plan", "act", "reflect"), min_length=1)
    group: str = ""
    rank: int = Field(default=8, ge=1, le=256)
    alpha: float = Field(default=16, gt=0)
    dropout: float = Field(default=0.05, ge=0, lt=1)
    targets: tuple[str, ...] = Field(default=("q_proj", "v_proj"), min_length=1)
    epochs: float = Field(default=3, gt=0)
    max_steps: int | None = Field(default=None, ge=1)
    batch_size: int = Field(default=8, ge=1)
    accumulation: int = Field(default=4, ge=1)
    learning_rate: float = Field(default=3e-4, gt=0)
    role_learning_rates: dict[Role, float] = {}
    warmup: float = Field(default=0.05, ge=0, lt=1)
    weight_decay: float = Field(default=0, ge=0)
    max_length: int = Field(default=2048, ge=2)
    seed: int = 0
    save_dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    eval_data: tuple[Path, ...] = ()
    checkpoint_every: int = Field(default=200, ge=1)
    gradient_checkpointing: bool = False
    device: str = "auto"
    overwrite: bool = False
    licence: str = ""
    data_note: str = ""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(set(self.roles)) != len(self.roles):
            raise ValueError(f"a role is named twice in {', '.join(self.roles)}")
        if unknown := set(self.role_learning_rates) - set(self.roles):
            raise ValueError(f"a learning rate is given for {sorted(unknown)}, which is no role")
        if any(rate <= 0 for rate in self.role_learning_rates.values()):
            raise ValueError("learning rates must be above 0")
        if self.readers == "random" and (
            self.trained_for is not TrainedFor.BASE_LR or self.mode is not Mode.JOINT
        ):
            raise ValueError(
                "readers are drawn at random only when training for base+lr in mode joint, in "
                "which all members are there"
            )
        if self.acting_text and self.trained_for is not TrainedFor.NEUTRAL:
            raise ValueError("only under neutral does a role act from an acting text on")
        if self.mode is not Mode.SEPARATE and not self.shared_projections:
            raise ValueError(
                f"mode {self.mode} shares the A of k_proj or v_proj, but the targets are "
                f"{', '.join(self.targets)}: add v_proj, or use mode separate"
            )
        return self

    @property
    def shared_projections(self) -> tuple[str, ...]:
        """Targets whose A all roles share, in the modes that share one."""
        return tuple(target for target in self.targets if target in ("k_proj", "v_proj"))

    @property
    def group_name(self) -> str:
        """Name of the adapters' group; the output folder's name when none was given."""
        return self.group or self.out.resolve().name

    def rate(self, role: str) -> float:
        """Peak learning rate of a role."""
        return self.role_learning_rates.get(role, self.learning_rate)

    def deciding(self) -> dict[str, object]:
        """The settings that decide what comes out, as JSON values: equal settings, equal runs."""
        apart = {"data", "eval_data", "out", "group", "checkpoint_every", "gradient_checkpointing"}
        apart |= {"device", "overwrite", "licence", "data_note"}
        return self.model_dump(mode="json", exclude=apart)

    def command(self) -> str:
        """The `lragent train` command line that makes this run.

        Files and folders go by their names alone, since cards are read elsewhere. Defaults are left
        out, and so are device, licence and note, which change no weight.
        """
        words = ["lragent", "train"]
        apart = {"overwrite", "device", "licence", "data_note"}
        given = self.model_dump(exclude_defaults=True, mode="json", exclude=apart)
        for name, value in given.items():
            flag = "--" + _FLAGS.get(name, name.replace("_", "-"))
            if isinstance(value, dict):
                words += [word for k, v in value.items() for word in (flag, f"{k}={v:g}")]
            elif isinstance(value, list) and name in ("data", "eval_data"):
                words += [word for path in value for word in (flag, Path(path).name)]
            elif isinstance(value, list):
                words += [flag, ",".join(value)]
            elif value is True:
                words.append(flag)
            elif name == "out":
                words += [flag, self.out.resolve().name]
            else:
                words += [flag, f"{value:g}" if isinstance(value, float) else str(value)]
        return " ".join(map(_quoted, words))


def _quoted(word: str) -> str:
    """A word for the shell on one line."""
    if word.isprintable():
        return shlex.quote(word)
    # what JSON escapes means the same to Bash in $'…'
    return "$'" + json.dumps(word, ensure_ascii=False)[1:-1].replace("'", r"\'") + "'"


_FLAGS = {"role_learning_rates": "role-learning-rate", "trained_for": "for"}
