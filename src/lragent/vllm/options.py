"""The plugin's option: ``--additional-config '{"lragent": {…}}'``."""

from __future__ import annotations

from collections import Counter
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

import lragent
from lragent.adapters.names import near_misses
from lragent.sharing.policies import Policy
from lragent.vllm.errors import PluginError

KEY = "lragent"
MAX_SLOTS = 64


class GroupOptions(BaseModel):
    """Adapters that share, by the names under which they are served.

    Attributes:
        members: names of adapters; they may be loaded later.
        policy: what they share; the option's ``policy`` when left out.
        include_base_model: whether requests for the bare base model share too; when left out, they
            do where the base model computes the context (``neutral``).
        measured: digests of the weights that the policy was measured for; a member with others is
            refused. Set by the plugin where the policy was given as ``measured``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    members: tuple[str, ...] = Field(min_length=1)
    policy: Policy | None = None
    include_base_model: bool | None = None
    measured: tuple[str, ...] = ()


class Options(BaseModel):
    """The plugin's configuration.

    Attributes:
        policy: sharing policy of the groups that name none.
        groups: who shares; a bare list of names is a group.
        slots: LR slots on each page. Default: one, or for policy ``base`` one a member.
        key_lora: room for LoRA on ``k_proj`` in the LR slots, which makes them twice as large.
            Members of groups need it if they adapt ``k_proj``; other adapters do not.
        alora: aLoRA adapters are served, outside of groups and under ``neutral``.
        adapters: folders of adapters by name, known from the start. Under ``base+lr`` with
            ordinary adapters the first agent can only fill the slots of adapters it knows.
        lora_speed: let vLLM's LoRA kernels pass over modules that no adapter of a batch touches,
            and prepare their metadata on the host. Nothing of it concerns sharing.
        debug: check the validity bits of all pages after each step. For finding faults of the
            plugin; it takes time that grows with the cache.
        allow_other_base: accept adapters whose config names another base model.
        version: set by the plugin, so that its version is part of vLLM's compile cache key.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    policy: Policy = Policy.ISOLATED
    groups: tuple[GroupOptions, ...] = ()
    slots: int | None = Field(default=None, ge=1, le=MAX_SLOTS)
    key_lora: bool = False
    alora: bool = False
    adapters: dict[str, str] = Field(default_factory=dict)
    lora_speed: bool = True
    debug: bool = False
    allow_other_base: bool = False
    version: str = lragent.__version__

    @field_validator("groups", mode="before")
    @classmethod
    def _lists_are_groups(cls, groups: Any) -> Any:
        if not isinstance(groups, list | tuple):
            return groups
        return [{"members": g} if isinstance(g, list | tuple) else g for g in groups]

    @model_validator(mode="after")
    def _consistent(self) -> Options:
        members = Counter(name for group in self.groups for name in group.members)
        for name, times in members.items():
            if times > 1:
                raise ValueError(f"the adapter {name!r} is named {times} times in groups; once is")
        if sum(map(self.includes_base_model, self.groups)) > 1:
            raise ValueError(
                "the base model can be in one group only; set include_base_model to false for the "
                "others (groups of policy neutral include it when left to choose)"
            )
        for name in self.adapters:
            if self.groups and name not in members:
                raise ValueError(f"adapters names {name!r}, which is in no group")
        needed = max((self._needed(group) for group in self.groups), default=1)
        if self.slots is not None and self.slots < needed:
            raise ValueError(f"slots is {self.slots}, but policy base needs {needed}, one a member")
        return self

    def policy_of(self, group: GroupOptions) -> Policy:
        """The policy of one of the groups."""
        return group.policy or self.policy

    def includes_base_model(self, group: GroupOptions) -> bool:
        """Whether requests for the bare base model are in one of the groups."""
        chosen = group.include_base_model
        return self.policy_of(group).base_reads if chosen is None else chosen

    def _needed(self, group: GroupOptions) -> int:
        return len(group.members) if self.policy_of(group) is Policy.BASE else 1

    @property
    def num_slots(self) -> int:
        """LR slots that each page carries, M."""
        return self.slots or max((self._needed(group) for group in self.groups), default=1)

    def slot_width(self, rank: int) -> int:
        """Elements of one LR slot for one token: of the values, and of the keys."""
        return 2 * rank if self.key_lora else rank

    @property
    def fills_many(self) -> bool:
        """Whether one token may fill several slots."""
        return any(self.policy_of(group).fills_all_slots for group in self.groups)

    @property
    def splits(self) -> bool:
        """Whether a request's tokens of one step may be two rows of attention."""
        return self.alora or any(self.policy_of(group).base_reads for group in self.groups)

    @property
    def columns(self) -> int:
        """Most slots that one token fills."""
        return self.num_slots if self.fills_many else 1

    @property
    def folds(self) -> bool:
        """Whether some requests fold their adapter's term into V."""
        return self.alora or any(self.policy_of(group) is Policy.FULL for group in self.groups)

    @property
    def extra_rows(self) -> int:
        """Down-projections beside the active adapters' own that a worker holds for filling slots.

        Twice what the groups need, so that requests in flight keep theirs after a reload.
        """
        groups = sum(self.policy_of(group).fills_all_slots for group in self.groups)
        return 2 * self.num_slots * groups


def parse_options(value: Any) -> Options:
    """Check the option's value.

    Raises:
        PluginError: unknown keys, wrong types, or contradictions, each with its place.
    """
    try:
        return Options.model_validate(value)
    except ValidationError as error:
        lines = []
        for problem in error.errors():
            place = ".".join(str(part) for part in problem["loc"])
            hint = ""
            if problem["type"] == "extra_forbidden":
                hint = near_misses(str(problem["loc"][-1]), Options.model_fields)
            lines.append(f"{KEY}{'.' + place if place else ''}: {problem['msg']}{hint}")
        raise PluginError("additional_config: " + "; ".join(lines)) from error


def options_of(vllm_config: Any) -> Options | None:
    """The plugin's options in a ``VllmConfig``; None when it is not switched on.

    Raises:
        PluginError: the option is there and wrong.
    """
    extra = getattr(vllm_config, "additional_config", None)
    if not isinstance(extra, dict) or KEY not in extra:
        return None
    return parse_options(extra[KEY])
