"""The comparison of `neutral` with its reference catches the faults that it is there for."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from tests.engine.neutral_jobs import Judge, Story, neutral_engine, tell
from tests.engine.test_neutral import joins, two
from transformers import PreTrainedModel

from lragent.cache.client import CacheClient
from lragent.cache.manager import CacheManager
from lragent.engine import step_builder
from lragent.engine.lora_bank import LoraBank
from lragent.engine.scheduler import Scheduled


def _turn_pages_are_published(patch: pytest.MonkeyPatch) -> None:
    admit = CacheManager.admit

    def all_public(
        manager: CacheManager, client: CacheClient, tokens: Sequence[int], shareable: int | None
    ) -> object:
        return admit(manager, client, tokens)

    patch.setattr(CacheManager, "admit", all_public)


def _adapter_acts_in_the_context(patch: pytest.MonkeyPatch) -> None:
    rows_of = step_builder.rows_of

    def early(item: Scheduled, bank: LoraBank) -> list[step_builder.Row]:
        adapter = bank.index(item.request.binding.adapter)
        return [row._replace(adapter=adapter) for row in rows_of(item, bank)]

    patch.setattr(step_builder, "rows_of", early)


def _turn_reads_no_slot(patch: pytest.MonkeyPatch) -> None:
    rows_of = step_builder.rows_of

    def blind(item: Scheduled, bank: LoraBank) -> list[step_builder.Row]:
        return [row._replace(slot=-1) for row in rows_of(item, bank)]

    patch.setattr(step_builder, "rows_of", blind)


def run(adapters: dict[str, Path], reference: PreTrainedModel) -> None:
    story = Story(random.Random(5), 96, 90)
    with neutral_engine(adapters, page_size=4) as engine:
        tell(engine, (*adapters, None), story, 4, Judge(reference, adapters))


def test_without_a_fault_all_is_well(tiny: PreTrainedModel, ordinary: dict[str, Path]):
    run(ordinary, tiny)


@pytest.mark.parametrize(
    "plant", [_turn_pages_are_published, _adapter_acts_in_the_context, _turn_reads_no_slot]
)
def test_fault_is_caught(
    plant: Callable[[pytest.MonkeyPatch], None],
    tiny: PreTrainedModel,
    ordinary: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
):
    plant(monkeypatch)
    with pytest.raises(AssertionError):
        run(ordinary, tiny)


def test_slot_of_a_new_a_taken_as_valid_is_caught(
    tiny: PreTrainedModel, ordinary: dict[str, Path], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(CacheClient, "needed_mask", property(lambda client: 0))
    with two(ordinary) as engine, pytest.raises(AssertionError):
        joins(engine, tiny, ordinary)
