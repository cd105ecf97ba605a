"""What each policy shares, against the dense reference of the same semantics."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from tests.engine.models import generate, prompt_of, tiny_model
from tests.engine.shared_reference import Seen, SharedReference
from transformers import PreTrainedModel

from lragent.engine import Completion, Engine, SamplingParams

PAGE = 16
CONTEXT = 6 * PAGE
NEW = 5
AGENTS = ("plan", "act", "reflect")
ALL = SamplingParams(max_tokens=1, logprobs=96, ignore_eos=True)
ATOL = 2e-5
"""fp32 logits of a few units: a few hundred roundings of 6e-8 each."""


@pytest.fixture(params=["shared-A", "ordinary"])
def adapters(
    request: pytest.FixtureRequest, shared_a: dict[str, Path], ordinary: dict[str, Path]
) -> dict[str, Path]:
    return shared_a if request.param == "shared-A" else ordinary


def logprobs_of(completion: Completion) -> torch.Tensor:
    top = completion.logprobs[0].top
    return torch.tensor([top[i] for i in range(len(top))])


def steps() -> list[tuple[str, list[int]]]:
    """Each agent gets the context of the one before and a page of its own new tokens."""
    parts = [prompt_of(CONTEXT, 0), prompt_of(PAGE, 1), prompt_of(2 * PAGE, 2)]
    return list(zip(AGENTS, parts, strict=True))


def run_chain(engine: Engine) -> list[Completion]:
    context: list[int] = []
    completions = []
    for name, new in steps():
        context = [*context, *new]
        completions.append(engine.generate(context, adapter=name, sampling_params=ALL))
        engine.check_integrity()
    return completions


def test_base_lr_equals_the_dense_reference(tiny: PreTrainedModel, adapters: dict[str, Path]):
    reference, seen = SharedReference(tiny, adapters), Seen()
    with Engine((tiny_model(), None), adapters, "base+lr", page_size=PAGE) as engine:
        for (name, new), got in zip(steps(), run_chain(engine), strict=True):
            expected = reference.base_lr(seen, name, new)
            torch.testing.assert_close(logprobs_of(got), expected, atol=ATOL, rtol=0)


def test_base_equals_the_dense_reference(tiny: PreTrainedModel, adapters: dict[str, Path]):
    reference, seen = SharedReference(tiny, adapters), Seen()
    with Engine((tiny_model(), None), adapters, "base", page_size=PAGE) as engine:
        for (name, new), got in zip(steps(), run_chain(engine), strict=True):
            expected = reference.base(seen, Seen(), name, new)
            torch.testing.assert_close(logprobs_of(got), expected, atol=ATOL, rtol=0)


def test_base_passes_only_over_tokens_that_others_added(
    tiny: PreTrainedModel, adapters: dict[str, Path]
):
    """plan returns after act: its slot of the first pages is still valid."""
    reference, seen = SharedReference(tiny, adapters), Seen()
    own = {name: Seen() for name in AGENTS}
    context: list[int] = []
    with Engine((tiny_model(), None), adapters, "base", page_size=PAGE) as engine:
        for turn, name in enumerate(("plan", "act", "plan", "act")):
            new = prompt_of(2 * PAGE, turn)
            context = [*context, *new]
            got = engine.generate(context, adapter=name, sampling_params=ALL)
            expected = reference.base(seen, own[name], name, new)
            torch.testing.assert_close(logprobs_of(got), expected, atol=ATOL, rtol=0)
            assert got.cached_tokens == (0, 0, 2 * PAGE, 4 * PAGE)[turn]


def test_full_equals_the_dense_reference(tiny: PreTrainedModel, adapters: dict[str, Path]):
    reference, seen = SharedReference(tiny, adapters), Seen()
    with Engine((tiny_model(), None), adapters, "full", page_size=PAGE) as engine:
        for (name, new), got in zip(steps(), run_chain(engine), strict=True):
            expected = reference.full(seen, name, new)
            torch.testing.assert_close(logprobs_of(got), expected, atol=ATOL, rtol=0)


def test_full_equals_reading_the_first_agents_values(
    tiny: PreTrainedModel, shared_a: dict[str, Path]
):
    """One agent alone under `full` is exact; a second one reads what the first one wrote."""
    with Engine((tiny_model(), None), shared_a, "full", page_size=PAGE) as engine:
        assert engine.layout.slots == 0
        prompt = prompt_of(CONTEXT)
        params = SamplingParams(max_tokens=8, ignore_eos=True)
        first = engine.generate(prompt, adapter="plan", sampling_params=params)
        assert list(first.token_ids) == generate(tiny, prompt, 8, shared_a["plan"]).tokens
        second = engine.generate(prompt, adapter="act", sampling_params=ALL)
        assert second.cached_tokens == CONTEXT - 1
        alone = engine.generate(prompt, adapter="act", sampling_params=ALL, cache_salt="other")
        assert (logprobs_of(second) - logprobs_of(alone)).abs().max() > 100 * ATOL


@pytest.mark.parametrize("policy", ["base+lr", "base"])
def test_first_layer_base_values_do_not_depend_on_the_agent(policy: str, shared_a: dict[str, Path]):
    """Layer 0 sees the embeddings alone, so its K and V_base must be bit-equal (LRAgent)."""
    prompt = prompt_of(CONTEXT)
    rows = {}
    for name in AGENTS:
        with Engine((tiny_model(), None), shared_a, policy, page_size=PAGE) as engine:
            request = engine.submit(prompt, adapter=name, sampling_params=ALL)
            engine.step()
            views = engine._runner.storage.views
            rows[name] = [
                (views[layer].k[:6].clone(), views[layer].v[:6].clone()) for layer in (0, 1)
            ]
            request.result()
    for one, other in itertools.combinations(AGENTS, 2):
        for part in (0, 1):
            assert torch.equal(rows[one][0][part], rows[other][0][part])
            assert not torch.equal(rows[one][1][part], rows[other][1][part])


def test_the_next_agent_computes_only_its_new_tokens(adapters: dict[str, Path]):
    with Engine((tiny_model(), None), adapters, "base+lr", page_size=PAGE) as engine:
        prompt = prompt_of(CONTEXT + 3)
        engine.generate(prompt, adapter="plan", sampling_params=ALL)
        before = engine.stats().total.computed_tokens
        new = prompt_of(NEW, 9)
        got = engine.generate([*prompt, *new], adapter="act", sampling_params=ALL)
        computed = engine.stats().total.computed_tokens - before
        assert computed <= PAGE + NEW
        assert got.cached_tokens >= CONTEXT
        assert engine.stats().adapters["act"].recomputed_tokens == 0


def test_ordinary_adapters_fill_a_slot_for_each_a(ordinary: dict[str, Path]):
    with Engine((tiny_model(), None), ordinary, "base+lr", page_size=PAGE) as engine:
        assert engine.layout.slots == 3
        prompt = prompt_of(CONTEXT)
        for name in AGENTS:
            got = engine.generate(prompt, adapter=name, sampling_params=ALL)
            assert got.cached_tokens == (0 if name == "plan" else CONTEXT - 1)


def test_shared_a_needs_one_slot(shared_a: dict[str, Path]):
    with Engine((tiny_model(), None), shared_a, "base+lr", page_size=PAGE) as engine:
        assert engine.layout.slots == 1


def test_base_skips_key_and_value_projections_of_known_tokens(shared_a: dict[str, Path]):
    """Only the rows that are new go through k_proj and v_proj (LRAgent, BaseShared)."""
    with Engine((tiny_model(), None), shared_a, "base", page_size=PAGE) as engine:
        rows: list[int] = []
        layer = engine._runner.model.get_submodule("model.layers.1.self_attn.k_proj.base")
        layer.register_forward_hook(lambda _m, args, _o: rows.append(args[0].shape[-2]))
        prompt = prompt_of(CONTEXT)
        engine.generate(prompt, adapter="plan", sampling_params=ALL)
        engine.generate([*prompt, *prompt_of(NEW, 9)], adapter="act", sampling_params=ALL)
        assert rows == [CONTEXT, NEW]
