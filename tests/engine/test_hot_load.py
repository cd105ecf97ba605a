"""Loading, reloading and unloading while the engine serves."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.adapters.factory import make_adapter
from tests.engine.models import generate, prompt_of, tiny_model
from transformers import PreTrainedModel

from lragent.adapters import AdapterError
from lragent.engine import Engine, SamplingParams
from lragent.engine.errors import UnknownAdapterError

PROMPT = prompt_of(64)
PARAMS = SamplingParams(max_tokens=12, ignore_eos=True)


def test_an_engine_can_start_without_adapters(shared_a: dict[str, Path], tiny: PreTrainedModel):
    with Engine((tiny_model(), None)) as engine:
        engine.load_adapter("plan", shared_a["plan"])
        got = engine.generate(PROMPT, adapter="plan", params=PARAMS)
        assert list(got.token_ids) == generate(tiny, PROMPT, 12, shared_a["plan"]).tokens


def test_a_new_member_joins_a_group(shared_a: dict[str, Path]):
    two = {name: shared_a[name] for name in ("plan", "act")}
    with Engine((tiny_model(), None), two, "base+lr") as engine:
        engine.load_adapter("reflect", shared_a["reflect"], group="default")
        engine.generate(PROMPT, adapter="plan", params=PARAMS)
        assert engine.generate(PROMPT, adapter="reflect", params=PARAMS).cached_tokens == 63


def test_running_requests_finish_on_the_weights_they_started_with(
    shared_a: dict[str, Path], tmp_path: Path, tiny: PreTrainedModel
):
    other = make_adapter(tmp_path / "other", tiny, rank=4, seed=50)
    with Engine((tiny_model(), None), shared_a) as engine:
        old = engine.submit(PROMPT, adapter="plan", params=PARAMS)
        gone = engine.submit(PROMPT, adapter="act", params=PARAMS)
        engine.step()
        engine.reload_adapter("plan", other)
        engine.unload_adapter("act")
        new = engine.submit(PROMPT, adapter="plan", params=PARAMS)
        assert list(old.result().token_ids) == generate(tiny, PROMPT, 12, shared_a["plan"]).tokens
        assert list(gone.result().token_ids) == generate(tiny, PROMPT, 12, shared_a["act"]).tokens
        assert list(new.result().token_ids) == generate(tiny, PROMPT, 12, other).tokens
        assert len(engine._runner.bank) == 2
        engine.check_integrity()


def test_unload_frees_the_pages_that_only_the_adapter_could_use(shared_a: dict[str, Path]):
    with Engine((tiny_model(), None), shared_a) as engine:
        engine.generate(PROMPT, adapter="plan", params=PARAMS)
        engine.generate(PROMPT, adapter="act", params=PARAMS)
        before = engine.stats()
        freed = engine.unload_adapter("plan")
        after = engine.stats()
        assert freed.pages == 4
        assert before.pages["idle"] - after.pages["idle"] == 4
        assert after.kv_base_bytes + after.kv_lr_bytes == freed.bytes
        assert after.adapter_bytes < before.adapter_bytes
        with pytest.raises(UnknownAdapterError, match="'plan'"):
            engine.submit(PROMPT, adapter="plan")
        assert engine.generate(PROMPT, adapter="act", params=PARAMS).cached_tokens == 63


def test_pages_of_a_group_stay_for_the_members_that_remain(shared_a: dict[str, Path]):
    with Engine((tiny_model(), None), shared_a, "base+lr") as engine:
        engine.generate(PROMPT, adapter="plan", params=PARAMS)
        assert engine.unload_adapter("plan").pages == 0
        assert engine.generate(PROMPT, adapter="act", params=PARAMS).cached_tokens == 63
        engine.load_adapter("plan", shared_a["plan"])
        assert engine.generate(PROMPT, adapter="plan", params=PARAMS).cached_tokens == 63
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
        got = engine.generate(PROMPT, adapter="plan", params=PARAMS)
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
        engine.generate(PROMPT, adapter="plan", params=PARAMS)
        assert engine.generate(PROMPT, adapter="other", params=PARAMS).cached_tokens == 63


def test_a_taken_name_is_refused(shared_a: dict[str, Path]):
    with (
        Engine((tiny_model(), None), shared_a) as engine,
        pytest.raises(ValueError, match="reload_adapter"),
    ):
        engine.load_adapter("plan", shared_a["act"])
