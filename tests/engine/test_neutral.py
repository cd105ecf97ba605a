"""What `neutral` shares, and who computes which token."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch
from tests.adapters.factory import make_adapter
from tests.engine.models import generate, prompt_of, tiny_model
from tests.engine.neutral_jobs import Judge, Story, neutral_engine, tell
from transformers import PreTrainedModel

from lragent.engine import Completion, Engine, SamplingParams

PAGE = 16
PARAMS = SamplingParams(max_tokens=10, logprobs=0, ignore_eos=True)
AGENTS = ("plan", "act", "reflect")


def ask(engine: Engine, name: str | None, prompt: list[int]) -> Completion:
    got = engine.generate(prompt, adapter=name, sampling_params=PARAMS)
    engine.check_integrity()
    return got


def test_agents_and_the_base_model_read_one_context(
    tiny: PreTrainedModel, ordinary: dict[str, Path]
):
    """Pages that end before the last prompt token are shared, whoever came first."""
    prompt = prompt_of(6 * PAGE)
    judge = Judge(tiny, ordinary)
    for order in (("plan", "act", None, "reflect"), (None, "reflect", "act", "plan")):
        with neutral_engine(ordinary, page_size=PAGE) as engine:
            for place, name in enumerate(order):
                got = ask(engine, name, prompt)
                judge.check(name, prompt, got)
                most = 6 * PAGE - 1 if name is None else 5 * PAGE
                known = 5 if order[0] is not None and None not in order[:place] else 6
                assert got.cached_tokens == min(most, known * PAGE if place else 0)
                assert got.not_shared == (None if place else "not_seen")


def test_pages_do_not_depend_on_the_agent(ordinary: dict[str, Path]):
    """K, V_base and every slot of the context have the same bits, whoever asked."""
    prompt, rows = prompt_of(4 * PAGE + 1), {}
    for name in (None, *AGENTS):
        with neutral_engine(ordinary, page_size=PAGE) as engine:
            request = engine.submit(prompt, adapter=name, sampling_params=PARAMS)
            engine.step()
            rows[name] = [
                block[:4].clone() for layer in engine._runner.storage.views
                for block in (layer.k, layer.v, layer.lr) if block is not None
            ]  # fmt: skip
            request.cancel()
    for name in AGENTS:
        assert all(map(torch.equal, rows[name], rows[None]))


def test_pages_of_a_turn_are_free_when_it_ends(ordinary: dict[str, Path]):
    with neutral_engine(ordinary, page_size=PAGE) as engine:
        prompt = prompt_of(2 * PAGE)
        answer = ask(engine, "plan", prompt).token_ids
        assert engine.stats().pages["idle"] == 1
        got = ask(engine, "plan", [*prompt, *answer, *prompt_of(PAGE, 3)])
        assert got.cached_tokens == PAGE  # the answer is context now, and the base model reads it


def test_the_base_model_answers_as_on_its_own(tiny: PreTrainedModel, ordinary: dict[str, Path]):
    prompt = prompt_of(5 * PAGE + 3)
    with neutral_engine(ordinary, page_size=PAGE) as engine:
        ask(engine, "act", prompt)
        got = ask(engine, None, prompt)
        assert got.cached_tokens == 5 * PAGE
        assert list(got.token_ids) == generate(tiny, prompt, 10).tokens
        longer = [*prompt, *got.token_ids]
        assert ask(engine, None, longer).cached_tokens == 5 * PAGE  # 92 of 93 tokens were computed
        assert ask(engine, "act", [*longer, *prompt_of(9)]).cached_tokens == 5 * PAGE


def test_the_base_model_may_stay_apart(ordinary: dict[str, Path]):
    with neutral_engine(ordinary, page_size=PAGE, include_base_model=False) as engine:
        ask(engine, "plan", prompt_of(64))
        assert ask(engine, None, prompt_of(64)).cached_tokens == 0


@pytest.mark.parametrize("length", [1, 2, PAGE, PAGE + 1, 3 * PAGE, 3 * PAGE + 5])
@pytest.mark.parametrize("chunk", [7, 512])
def test_chunks_may_cross_the_acting_position(
    length: int, chunk: int, tiny: PreTrainedModel, ordinary: dict[str, Path]
):
    judge, prompt = Judge(tiny, ordinary), prompt_of(length)
    with neutral_engine(ordinary, page_size=PAGE, max_num_batched_tokens=chunk) as engine:
        for place, name in enumerate((*AGENTS, *AGENTS)):
            got = ask(engine, name, prompt)
            judge.check(name, prompt, got)
            assert got.cached_tokens == ((length - 1) // PAGE * PAGE if place else 0)
            if place:
                assert got.not_shared == (None if length > PAGE else "shorter_than_page")


def test_acting_tokens_of_a_sidecar(tiny: PreTrainedModel, tmp_path: Path):
    """The adapter acts from the last occurrence on; without one from the prompt's last token."""
    folder = make_adapter(tmp_path / "late", tiny, rank=4, seed=8)
    sidecar = {"schema": 1, "group": "g", "role": "late", "a_digest": {}, "acting_tokens": [5, 6]}
    (folder / "lragent.json").write_text(json.dumps(sidecar))
    judge = Judge(tiny, {"late": folder})
    head, tail = prompt_of(40, 1), prompt_of(23, 2)
    with neutral_engine({"late": folder}, page_size=PAGE) as engine:
        for prompt in ([*head, 5, 6, *tail], [5, 6, *head, 5, 6], [5, 6, *tail], head):
            judge.check("late", prompt, ask(engine, "late", prompt))
        without = ask(engine, "late", [*head, *tail])
        assert list(without.token_ids) != generate(tiny, [*head, *tail], 10).tokens


def test_other_weights_on_the_same_a_keep_the_pages(
    tiny: PreTrainedModel, shared_a: dict[str, Path], tmp_path: Path
):
    other = make_adapter(tmp_path / "plan", tiny, rank=4, seed=77, share_a_with=shared_a["plan"])
    prompt = prompt_of(100)
    with neutral_engine(shared_a, page_size=PAGE) as engine:
        ask(engine, "plan", prompt)
        engine.reload_adapter("plan", other)
        got = ask(engine, "plan", prompt)
        assert got.cached_tokens == 96
        Judge(tiny, {"plan": other}).check("plan", prompt, got)


def joins(engine: Engine, reference: PreTrainedModel, ordinary: dict[str, Path]) -> Completion:
    """`reflect` joins the two others and asks for what they have read; both answers are right."""
    prompt, judge = prompt_of(5 * PAGE), Judge(reference, ordinary)
    judge.check("plan", prompt, ask(engine, "plan", prompt))
    engine.load_adapter("reflect", ordinary["reflect"])
    got = ask(engine, "reflect", prompt)
    judge.check("reflect", prompt, got)
    return got


def two(ordinary: dict[str, Path]) -> Engine:
    members = {name: ordinary[name] for name in ("plan", "act")}
    return neutral_engine(members, page_size=PAGE, lr_slots=3, max_lora_rank=6)


def test_a_member_with_a_new_a_recomputes_once(tiny: PreTrainedModel, ordinary: dict[str, Path]):
    with two(ordinary) as engine:
        got = joins(engine, tiny, ordinary)
        assert got.cached_tokens == 0
        sums = engine.stats().adapters["reflect"]
        assert sums.recomputed_tokens == sums.base_hit_tokens == 4 * PAGE
        assert ask(engine, "reflect", prompt_of(5 * PAGE)).cached_tokens == 4 * PAGE
        assert ask(engine, "act", prompt_of(5 * PAGE)).cached_tokens == 4 * PAGE


def test_a_replaced_a_takes_a_free_slot_or_ends_the_pages(
    tiny: PreTrainedModel, ordinary: dict[str, Path], tmp_path: Path
):
    other = make_adapter(tmp_path / "act", tiny, rank=4, seed=90)
    story = Story(random.Random(4), 96, 90)
    with two(ordinary) as engine:
        for folder in (ordinary["act"], other, ordinary["reflect"], ordinary["act"]):
            engine.reload_adapter("act", folder)
            judge = Judge(tiny, {"plan": ordinary["plan"], "act": folder})
            tell(engine, ("plan", "act", None), story, 2, judge)


def test_running_requests_keep_the_slots_they_started_with(
    tiny: PreTrainedModel, ordinary: dict[str, Path]
):
    prompt, judge = prompt_of(5 * PAGE), Judge(tiny, ordinary)
    with two(ordinary) as engine:
        running = engine.submit(prompt, adapter="plan", sampling_params=PARAMS)
        engine.load_adapter("reflect", ordinary["reflect"])
        new = engine.submit(prompt, adapter="reflect", sampling_params=PARAMS)
        judge.check("plan", prompt, running.result())
        judge.check("reflect", prompt, new.result())
        judge.check("reflect", prompt, ask(engine, "reflect", prompt))


def test_an_adapter_trained_for_another_policy_warns_once_by_name(
    tiny: PreTrainedModel, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    folder = make_adapter(tmp_path / "tuned", tiny, rank=4, seed=91)
    sidecar = {"schema": 1, "group": "g", "role": "r", "a_digest": {}, "trained_for": "neutral"}
    (folder / "lragent.json").write_text(json.dumps(sidecar))
    with Engine((tiny_model(), None), {"tuned": folder}, "neutral"):
        assert not caplog.records
    for _ in range(2):
        with Engine((tiny_model(), None), {"tuned": folder}):
            pass
    assert [record.getMessage() for record in caplog.records] == [
        "adapter 'tuned' was trained for the sharing policy 'neutral' and is used under "
        "'isolated', where its answers may be worse; use it under 'neutral', or train it for "
        "'isolated'"
    ]
