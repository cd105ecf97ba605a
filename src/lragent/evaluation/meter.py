"""Teacher-forced scores of a role's output, on the engine that serves.

Every policy is a sharing group of its own in one engine, with the same adapters under names of
their own, so all of them are measured in one process and on the same kernels. For each reading of a
context, its readers run ordinary requests, and then the role's request finds their pages.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from lragent.adapters.trained_for import other_policies_on_purpose
from lragent.engine import Completion, Engine, SamplingParams
from lragent.evaluation.cases import Case, Reading
from lragent.evaluation.errors import EvaluationError
from lragent.evaluation.samples import EvalSample
from lragent.sharing import Policy, SharingGroup

BASE_MODEL = "base model"
"""Stands where a policy would, for the output scored by the base model without an adapter."""


class Measurement(BaseModel):
    """One arm of a case: sums over the tokens of the output.

    Attributes:
        policy: a policy's name, or `BASE_MODEL`.
        readers: who read the context; empty when the role itself did.
        nll: negative log-likelihood of the output, in nats.
        kl: divergence of next-token distributions, KL(isolated || policy), in nats.
        agreeing: positions at which the likeliest token is the one under `isolated`.
        exact: whether greedy decoding would write the whole output.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    policy: str
    readers: tuple[str, ...]
    nll: float
    kl: float
    agreeing: int
    exact: bool


@dataclass(frozen=True)
class _Arm:
    policy: Policy | None
    reading: Reading


class Meter:
    """Measures cases; every case starts on a cache of its own.

    Args:
        model, options: as `Engine` takes them.
        adapters: PEFT folders by role: the members of the group that is to be judged.
        policies: those to compare with `isolated`.

    Raises:
        EvaluationError: fewer than two adapters.
        AdapterError, UnsupportedModelError: as `Engine` does.
    """

    def __init__(
        self,
        model: Any,
        adapters: Mapping[str, Path],
        policies: Sequence[Policy],
        **options: Any,
    ):
        if len(adapters) < 2:
            raise EvaluationError("sharing needs at least two adapters; name more of them")
        self.policies = [p for p in policies if p is not Policy.ISOLATED]
        self._roles = tuple(adapters)
        self._order_matters = [p for p in self.policies if not p.base_reads]
        arms = [Policy.ISOLATED, *self.policies]
        folders = {_name(p, role): path for p in arms for role, path in adapters.items()}
        groups = [
            SharingGroup(p.value, tuple(_name(p, role) for role in adapters), p)
            for p in self.policies
        ]
        with other_policies_on_purpose():
            self.engine = Engine(model, folders, groups, **options)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.engine.close()

    def measure(self, case: Case) -> list[Measurement]:
        """The arms of `case`: isolated, base model, and each policy under each reading.

        Raises:
            PromptTooLongError, BudgetError: as `Engine.submit` does.
        """
        alone = Reading(())
        arms = [_Arm(Policy.ISOLATED, alone), _Arm(None, alone)]
        arms += [_Arm(p, reading) for p in self.policies for reading in case.readings]
        target = torch.tensor(case.sample.output)
        measurements: list[Measurement] = []
        isolated: Tensor | None = None
        for arm, done in self._scored(case, arms):
            assert done.distributions is not None
            rows = done.distributions.cpu()
            if isolated is None:
                isolated = rows
            best = rows.argmax(-1)
            measurements.append(
                Measurement(
                    policy=BASE_MODEL if arm.policy is None else arm.policy.value,
                    readers=arm.reading.readers,
                    nll=-rows.gather(1, target[:, None]).sum().item(),
                    kl=(isolated.exp() * (isolated - rows)).sum().item(),
                    agreeing=int((best == isolated.argmax(-1)).sum()),
                    exact=bool((best == target).all()),
                )
            )
        return measurements

    def _scored(self, case: Case, arms: Sequence[_Arm]) -> Iterator[tuple[_Arm, Completion]]:
        """Each arm with the role's request, as many at once as the pages hold."""
        sample = case.sample
        page = self.engine.layout.page_size
        needed = -(-len(sample.context + sample.output) // page)
        at_once = max(1, sum(self.engine.stats().pages.values()) // needed)
        for first in range(0, len(arms), at_once):
            batch = arms[first : first + at_once]
            salts = [f"{case.key}:{first + i}" for i in range(len(batch))]
            self._read(sample.context, batch, salts)
            yield from zip(batch, self._score(sample, batch, salts), strict=True)

    def _read(self, context: Sequence[int], arms: Sequence[_Arm], salts: Sequence[str]) -> None:
        """Let every arm's readers read their parts of the context, one after the other."""
        for turn in range(max(len(arm.reading.readers) for arm in arms)):
            requests = []
            for arm, salt in zip(arms, salts, strict=True):
                if turn < len(arm.reading.readers):
                    assert arm.policy is not None
                    end = arm.reading.ends(len(context))[turn]
                    requests.append(
                        self.engine.submit(
                            context[:end],
                            adapter=_name(arm.policy, arm.reading.readers[turn]),
                            sampling_params=SamplingParams(max_tokens=1, ignore_eos=True),
                            cache_salt=salt,
                        )
                    )
            for request in requests:
                request.result()

    def _score(
        self, sample: EvalSample, arms: Sequence[_Arm], salts: Sequence[str]
    ) -> list[Completion]:
        """The role's request of each arm, its output forced."""
        params = SamplingParams(max_tokens=len(sample.output), ignore_eos=True, distributions=True)
        before = self._hits()
        requests = [
            self.engine.submit(
                sample.context,
                adapter=None if arm.policy is None else _name(arm.policy, sample.role),
                sampling_params=params,
                cache_salt=salt,
                forced=sample.output,
            )
            for arm, salt in zip(arms, salts, strict=True)
        ]
        done = [request.result() for request in requests]
        found = self._hits() - before
        page = self.engine.layout.page_size
        length = len(sample.context)
        expected = sum(
            min(length - 1, *arm.reading.ends(length)[-1:]) // page * page
            for arm in arms
            if arm.policy in self._order_matters and arm.reading.readers
        )
        assert found >= expected, "a reader's pages were evicted before the role's request"
        return done

    def _hits(self) -> int:
        """Tokens found in the cache so far, under policies whose answers depend on who came first.

        Under `neutral` an evicted page comes back the same, whoever computes it.
        """
        names = {_name(p, role) for p in self._order_matters for role in self._roles}
        adapters = self.engine.stats().adapters
        return sum(sums.base_hit_tokens for name, sums in adapters.items() if name in names)


def _name(policy: Policy, role: str) -> str:
    return f"{role} ({policy.value})"
