"""Loading, reloading and unloading while the engine serves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from tests.adapters.factory import make_adapter
from tests.engine.models import generate, prompt_of, tiny_model
from tests.engine.shared_reference import Seen, SharedReference
from transformers import PreTrainedModel

from lragent.adapters import Adapter, AdapterError
from lragent.engine import Engine, SamplingParams
from lragent.engine.errors import UnknownAdapterError
from lragent.engine.lora_bank import LoraBank
from lragent.sharing import SharingGroup

PROMPT = prompt_of(64)
PARAMS = SamplingParams(max_tokens=12, ignore_eos=True)


def test_an_engine_can_start_without_adapters(shared_a: dict[str, Path], tiny: PreTrainedModel):
    with Engine((tiny_model(), None)) as engine:
        engine.load_adapter("plan", shared_a["plan"])
        got = engine.generate(PROMPT, adapter="plan", sampling_params=PARAMS)
        assert list(got.token_ids) == generate(tiny, PROMPT, 12, shared_a["plan"]).tokens


def test_a_new_member_joins_a_group(shared_a: dict[str, Path]):
    two = {name: shared_a[name] for name in ("plan", "act")}
    with Engine((tiny_model(), None), two, "base+lr") as engine:
        engine.load_adapter("reflect", shared_a["reflect"], group="default")
        engine.generate(PROMPT, adapter="plan", sampling_params=PARAMS)
        assert (
            engine.generate(PROMPT, adapter="reflect", sampling_params=PARAMS).cached_tokens == 63
        )


def test_an_engine_that_shares_takes_later_adapters_into_its_group(shared_a: dict[str, Path]):
    with Engine((tiny_model(), None), sharing="base+lr") as engine:
        for name in ("plan", "act"):
            engine.load_adapter(name, shared_a[name])
        engine.load_adapter("reflect", shared_a["reflect"], share=False)
        engine.generate(PROMPT, adapter="plan", sampling_params=PARAMS)
        assert engine.generate(PROMPT, adapter="act", sampling_params=PARAMS).cached_tokens == 63
        assert engine.generate(PROMPT, adapter="reflect", sampling_params=PARAMS).cached_tokens == 0
        engine.reload_adapter("reflect", shared_a["reflect"])
        assert (
            engine.generate(PROMPT, adapter="reflect", sampling_params=PARAMS).cached_tokens == 63
        )
        engine.unload_adapter("plan")
        engine.unload_adapter("act")
        engine.load_adapter("act", shared_a["act"], share=False)
        assert engine.generate(PROMPT, adapter="act", sampling_params=PARAMS).cached_tokens == 0
        with pytest.raises(ValueError, match="contradicts"):
            engine.load_adapter("plan", shared_a["plan"], group="default", share=False)


def test_a_group_may_wait_for_its_members(shared_a: dict[str, Path]):
    groups = [SharingGroup("agents", (), "base+lr", open=True)]
    with Engine((tiny_model(), None), sharing=groups) as engine:
        for name, path in shared_a.items():
            engine.load_adapter(name, path, group="agents")
        engine.generate(PROMPT, adapter="plan", sampling_params=PARAMS)
        assert engine.generate(PROMPT, adapter="act", sampling_params=PARAMS).cached_tokens == 63


def test_a_member_that_joins_reads_what_the_others_wrote(shared_a: dict[str, Path]):
    two = {name: shared_a[name] for name in ("plan", "act")}
    with Engine((tiny_model(), None), two, "base+lr") as engine:
        engine.generate(PROMPT, adapter="plan", sampling_params=PARAMS)
        engine.load_adapter("reflect", shared_a["reflect"])
        for name in ("reflect", "act", "plan"):
            assert engine.generate(PROMPT, adapter=name, sampling_params=PARAMS).cached_tokens == 63


def test_a_member_with_its_own_a_fills_its_empty_slot_once(
    tiny: PreTrainedModel, ordinary: dict[str, Path]
):
    """It runs the tokens over the others' K and V_base, as under `base`, and leaves their slots."""
    reference, seen = SharedReference(tiny, ordinary), Seen()
    two = {name: ordinary[name] for name in ("plan", "act")}
    scored = SamplingParams(max_tokens=1, logprobs=96, ignore_eos=True)
    with Engine((tiny_model(), None), two, "base+lr", lr_slots=3, max_lora_rank=8) as engine:
        reference.base_lr(seen, "plan", PROMPT)
        engine.generate(PROMPT, adapter="plan", sampling_params=scored)
        slots = {name: engine._registry.binding(name).slot for name in two}
        pages = engine._runner.storage.views[2]
        assert pages.lr is not None
        before = pages.lr[:4].clone()
        engine.load_adapter("reflect", ordinary["reflect"])

        got = engine.generate(PROMPT, adapter="reflect", sampling_params=scored)
        expected = reference.base(seen, Seen(), "reflect", [])
        top = torch.tensor([got.logprobs[0].top[i] for i in range(96)])
        torch.testing.assert_close(top, expected, atol=2e-5, rtol=0)
        assert (got.cached_tokens, engine.stats().adapters["reflect"].recomputed_tokens) == (0, 64)
        for slot in slots.values():
            assert torch.equal(pages.lr[:4, :, slot], before[:, :, slot])

        for name in ("reflect", "plan", "act"):
            assert engine.generate(PROMPT, adapter=name, sampling_params=PARAMS).cached_tokens == 63


def test_running_requests_finish_on_the_weights_they_started_with(
    shared_a: dict[str, Path], tmp_path: Path, tiny: PreTrainedModel
):
    other = make_adapter(tmp_path / "other", tiny, rank=4, seed=50)
    with Engine((tiny_model(), None), shared_a) as engine:
        old = engine.submit(PROMPT, adapter="plan", sampling_params=PARAMS)
        gone = engine.submit(PROMPT, adapter="act", sampling_params=PARAMS)
        engine.step()
        engine.reload_adapter("plan", other)
        engine.unload_adapter("act")
        new = engine.submit(PROMPT, adapter="plan", sampling_params=PARAMS)
        assert list(old.result().token_ids) == generate(tiny, PROMPT, 12, shared_a["plan"]).tokens
        assert list(gone.result().token_ids) == generate(tiny, PROMPT, 12, shared_a["act"]).tokens
        assert list(new.result().token_ids) == generate(tiny, PROMPT, 12, other).tokens
        assert len(engine._runner.bank) == 2
        engine.check_integrity()


def test_statistics_keep_no_name_of_an_unloaded_adapter(shared_a: dict[str, Path]):
    with Engine((tiny_model(), None), {"act": shared_a["act"]}, max_lora_rank=8) as engine:
        for number in range(3):
            name = f"plan-{number}"
            engine.load_adapter(name, shared_a["plan"])
            engine.generate(PROMPT, adapter=name, sampling_params=PARAMS)
            running = engine.submit(PROMPT, adapter=name, sampling_params=PARAMS)
            assert engine.stats().adapters[name].requests == 2
            engine.unload_adapter(name)
            assert len(running.result().token_ids) == 12
            stats = engine.stats()
            assert name not in stats.adapters
            assert stats.total.requests == stats.total.finished == 2 * (number + 1)
            assert stats.total.generated_tokens == 24 * (number + 1)


def test_unload_frees_the_pages_that_only_the_adapter_could_use(shared_a: dict[str, Path]):
    with Engine((tiny_model(), None), shared_a) as engine:
        engine.generate(PROMPT, adapter="plan", sampling_params=PARAMS)
        engine.generate(PROMPT, adapter="act", sampling_params=PARAMS)
        before = engine.stats()
        freed = engine.unload_adapter("plan")
        after = engine.stats()
        assert freed.pages == 4
        assert before.pages["idle"] - after.pages["idle"] == 4
        assert after.kv_base_bytes + after.kv_lr_bytes == freed.bytes
        assert after.adapter_bytes < before.adapter_bytes
        with pytest.raises(UnknownAdapterError, match="'plan'"):
            engine.submit(PROMPT, adapter="plan")
        assert engine.generate(PROMPT, adapter="act", sampling_params=PARAMS).cached_tokens == 63


def test_pages_of_a_group_stay_for_the_members_that_remain(shared_a: dict[str, Path]):
    with Engine((tiny_model(), None), shared_a, "base+lr") as engine:
        engine.generate(PROMPT, adapter="plan", sampling_params=PARAMS)
        assert engine.unload_adapter("plan").pages == 0
        assert engine.generate(PROMPT, adapter="act", sampling_params=PARAMS).cached_tokens == 63
        engine.load_adapter("plan", shared_a["plan"])
        assert engine.generate(PROMPT, adapter="plan", sampling_params=PARAMS).cached_tokens == 63
        for name in ("plan", "act"):
            assert engine.unload_adapter(name).pages == 0
        assert engine.unload_adapter("reflect").pages > 0


def test_a_refused_reload_leaves_the_old_weights(
    shared_a: dict[str, Path], tmp_path: Path, tiny: PreTrainedModel
):
    wide = make_adapter(tmp_path / "wide", tiny, rank=32, seed=60)
    with Engine((tiny_model(), None), shared_a) as engine:
        with pytest.raises(AdapterError, match="max_lora_rank=32"):
            engine.reload_adapter("plan", wide)
        got = engine.generate(PROMPT, adapter="plan", sampling_params=PARAMS)
        assert list(got.token_ids) == generate(tiny, PROMPT, 12, shared_a["plan"]).tokens


def test_more_distinct_a_than_slots_is_refused_with_the_option(
    shared_a: dict[str, Path], ordinary: dict[str, Path]
):
    two = {"plan": shared_a["plan"], "act": shared_a["act"]}
    with Engine((tiny_model(), None), two, "base+lr", max_lora_rank=8) as engine:
        with pytest.raises(AdapterError, match="lr_slots=2"):
            engine.load_adapter("other", ordinary["plan"], group="default")
        assert engine.adapters == ("plan", "act")
    with Engine((tiny_model(), None), two, "base+lr", max_lora_rank=8, lr_slots=2) as engine:
        engine.load_adapter("other", ordinary["plan"], group="default")
        engine.generate(PROMPT, adapter="plan", sampling_params=PARAMS)
        assert engine.generate(PROMPT, adapter="other", sampling_params=PARAMS).cached_tokens == 63


def test_a_taken_name_is_refused(shared_a: dict[str, Path]):
    with (
        Engine((tiny_model(), None), shared_a) as engine,
        pytest.raises(ValueError, match="reload_adapter"),
    ):
        engine.load_adapter("plan", shared_a["act"])


def test_an_adapter_that_memory_does_not_hold_leaves_the_engine_as_it_was(
    shared_a: dict[str, Path],
    ordinary: dict[str, Path],
    tiny: PreTrainedModel,
    monkeypatch: pytest.MonkeyPatch,
):
    expected = generate(tiny, PROMPT, 12, shared_a["plan"]).tokens
    stack = LoraBank._stack

    def full(self: LoraBank, path: str, adapters: Sequence[Adapter]):
        if len(adapters) > 2:
            raise torch.OutOfMemoryError("no memory for a third adapter")
        return stack(self, path, adapters)

    two = {name: shared_a[name] for name in ("plan", "act")}
    with Engine((tiny_model(), None), two, max_lora_rank=8, debug=True) as engine:
        running = engine.submit(PROMPT, adapter="plan", sampling_params=PARAMS)
        engine.step()
        with monkeypatch.context() as patch:
            patch.setattr(LoraBank, "_stack", full)
            with pytest.raises(torch.OutOfMemoryError):
                engine.load_adapter("late", ordinary["plan"])
            with pytest.raises(torch.OutOfMemoryError):
                engine.reload_adapter("act", ordinary["act"])
            assert engine.adapters == ("plan", "act")
            assert list(running.result().token_ids) == expected
        engine.load_adapter("late", ordinary["plan"])
        got = engine.generate(PROMPT, adapter="late", sampling_params=PARAMS)
        assert list(got.token_ids) == generate(tiny, PROMPT, 12, ordinary["plan"]).tokens
