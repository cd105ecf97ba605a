"""Whose pages a request may read: content, tenant and group decide, names never do."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.adapters.factory import make_adapter
from tests.engine.models import generate, prompt_of, tiny_model
from transformers import PreTrainedModel

from lragent.engine import Engine, SamplingParams
from lragent.sharing import Policy, SharingGroup

PROMPT = prompt_of(100)
PARAMS = SamplingParams(max_tokens=4, ignore_eos=True)


def cached(engine: Engine, adapter: str | None, salt: str = "") -> int:
    done = engine.generate(PROMPT, adapter=adapter, sampling_params=PARAMS, cache_salt=salt)
    engine.check_integrity()
    return done.cached_tokens


@pytest.mark.parametrize("policy", [p for p in Policy if p is not Policy.NEUTRAL])
def test_same_name_with_other_weights_never_reuses_a_page(
    policy: Policy, shared_a: dict[str, Path], tmp_path: Path, tiny: PreTrainedModel
):
    other = make_adapter(tmp_path / "plan", tiny, rank=4, seed=77, share_a_with=shared_a["plan"])
    with Engine((tiny_model(), None), shared_a, policy) as engine:
        assert cached(engine, "plan") == 0
        assert cached(engine, "plan") == 96
        engine.reload_adapter("plan", other)
        got = engine.generate(PROMPT, adapter="plan", sampling_params=PARAMS)
        assert got.cached_tokens == 0
        assert list(got.token_ids) == generate(tiny, PROMPT, 4, other).tokens
        assert cached(engine, "plan") == 96


def test_the_same_weights_under_another_name_may_share(shared_a: dict[str, Path]):
    adapters = {"one": shared_a["plan"], "two": shared_a["plan"], "other": shared_a["act"]}
    with Engine((tiny_model(), None), adapters) as engine:
        assert cached(engine, "one") == 0
        assert cached(engine, "two") == 96
        assert cached(engine, "other") == 0


def test_reload_of_the_same_weights_keeps_the_pages(shared_a: dict[str, Path]):
    with Engine((tiny_model(), None), shared_a, "base+lr") as engine:
        cached(engine, "plan")
        engine.reload_adapter("plan", shared_a["plan"])
        assert cached(engine, "act") == 96


@pytest.mark.parametrize("policy", list(Policy))
def test_tenants_never_share(policy: Policy, shared_a: dict[str, Path]):
    with Engine((tiny_model(), None), shared_a, policy) as engine:
        assert cached(engine, "plan", "alice") == 0
        assert cached(engine, "plan", "bob") == 0
        assert cached(engine, "plan") == 0
        assert cached(engine, "plan", "alice") == 96


def test_a_salt_that_equals_an_adapter_name_opens_nothing(shared_a: dict[str, Path]):
    with Engine((tiny_model(), None), shared_a, "base+lr") as engine:
        assert cached(engine, "plan") == 0
        assert cached(engine, None, "plan") == 0
        assert cached(engine, "act", "plan") == 0


@pytest.mark.parametrize("policy", [Policy.BASE_LR, Policy.BASE, Policy.FULL])
def test_the_base_model_reads_adapter_pages_only_when_the_group_says_so(
    policy: Policy, shared_a: dict[str, Path], tiny: PreTrainedModel
):
    with Engine((tiny_model(), None), shared_a, policy) as engine:
        cached(engine, "plan")
        got = engine.generate(PROMPT, sampling_params=PARAMS)
        assert got.cached_tokens == 0
        assert list(got.token_ids) == generate(tiny, PROMPT, 4).tokens
    with Engine((tiny_model(), None), shared_a, policy, include_base_model=True) as engine:
        cached(engine, "plan")
        assert cached(engine, None) == 96


def test_what_the_base_model_read_serves_the_group_that_includes_it(shared_a: dict[str, Path]):
    with Engine((tiny_model(), None), shared_a, "base+lr", include_base_model=True) as engine:
        assert cached(engine, None) == 0
        assert cached(engine, "act") == 96


def test_nothing_is_shared_by_default(shared_a: dict[str, Path]):
    with Engine((tiny_model(), None), shared_a) as engine:
        assert [cached(engine, name) for name in ("plan", "act", "reflect", None)] == [0] * 4


def test_only_members_of_one_group_share(shared_a: dict[str, Path], ordinary: dict[str, Path]):
    adapters = {**shared_a, "stranger": ordinary["plan"], "guest": ordinary["act"]}
    groups = [
        SharingGroup("agents", ("plan", "act"), Policy.BASE_LR),
        SharingGroup("others", ("stranger", "guest"), Policy.BASE_LR),
    ]
    with Engine((tiny_model(), None), adapters, groups) as engine:
        assert cached(engine, "plan") == 0
        assert cached(engine, "reflect") == 0
        assert cached(engine, "stranger") == 0
        assert cached(engine, "guest") == 96
        assert cached(engine, "act") == 96


def test_each_request_says_why_it_did_not_share(shared_a: dict[str, Path]):
    with Engine((tiny_model(), None), shared_a, "base+lr") as engine:
        first = engine.generate(PROMPT, adapter="plan", sampling_params=PARAMS)
        again = engine.generate(PROMPT, adapter="act", sampling_params=PARAMS)
        salted = engine.generate(PROMPT, adapter="act", sampling_params=PARAMS, cache_salt="bob")
        short = engine.generate(PROMPT[:5], adapter="act", sampling_params=PARAMS)
        reasons = [c.not_shared for c in (first, again, salted, short)]
        assert reasons == ["not_seen", None, "not_seen", "shorter_than_page"]
        counted = engine.stats().total.not_shared
        assert counted == {"not_seen": 1, "salt": 1, "shorter_than_page": 1}
