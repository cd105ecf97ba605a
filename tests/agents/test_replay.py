from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import torch
from tests.adapters.factory import make_adapter, tiny_llama

from lragent.agents.replay import RecordedCall, RecordingEngine, replay
from lragent.engine import SamplingParams

PROMPT = [5, 9, 17, 3, 44, 21, 8, 30] * 5
ROLES = ("plan", "act")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    model = tiny_llama()
    plan = make_adapter(tmp_path / "plan", model)
    act = make_adapter(tmp_path / "act", model, seed=2, share_a_with=plan)
    return {"plan": plan, "act": act}


def engine(folders: dict[str, Path], sharing: str) -> RecordingEngine:
    return RecordingEngine(
        (tiny_llama(), None),
        folders,
        sharing,
        page_size=8,
        kv_bytes=1 << 22,
        allow_other_base=True,
    )


def record(running: RecordingEngine) -> tuple[RecordedCall, ...]:
    prompt = PROMPT
    for role in ROLES:
        params = SamplingParams(max_tokens=12, ignore_eos=True)
        done = running.generate(prompt, adapter=role, sampling_params=params)
        prompt = [*prompt, *done.token_ids, 7]
    return running.take_calls()


def test_recording_keeps_whole_calls_once(folders: dict[str, Path]) -> None:
    with closing(engine(folders, "base+lr")) as running:
        plan, act = record(running)
        running.submit(PROMPT, adapter="plan").cancel()
        assert running.take_calls() == ()
    assert (plan.adapter, act.adapter) == ROLES
    assert act.prompt == (*plan.prompt, *plan.output, 7)
    assert len(act.output) == 12


def test_the_same_policy_chooses_the_same_tokens(folders: dict[str, Path]) -> None:
    with closing(engine(folders, "base+lr")) as running:
        calls = record(running)
    with closing(engine(folders, "base+lr")) as running:
        sums = replay(running, calls)
    assert sums.other_tokens == 0
    assert (sums.prompt_tokens, sums.generated_tokens) == (40 + 53, 24)
    assert sums.reused_tokens == 48
    assert sums.computed_tokens == 93 - 48


def test_other_choices_are_counted_and_replaced(folders: dict[str, Path]) -> None:
    forced = tuple(range(20, 36))
    with closing(engine(folders, "isolated")) as running:
        sums = replay(running, [RecordedCall("plan", tuple(PROMPT), forced)])
        assert sums.other_tokens > 0
        # the cache now holds the forced text, the last token of which was never computed
        after = running.generate([*PROMPT, *forced, 1], adapter="plan")
        assert after.cached_tokens == 48
        other = running.generate([*PROMPT, *forced, 1], adapter="act")
        assert other.cached_tokens == 0
        again = replay(running, [RecordedCall("plan", (*PROMPT, *forced, 1), after.token_ids)])
        assert again.other_tokens == 0


def test_forced_text_decodes_as_if_it_had_been_prompted(folders: dict[str, Path]) -> None:
    forced = tuple(range(20, 36))
    params = SamplingParams(max_tokens=8, ignore_eos=True)
    with closing(engine(folders, "isolated")) as running:
        replay(running, [RecordedCall("plan", tuple(PROMPT), forced)])
        cached = running.generate([*PROMPT, *forced], adapter="plan", sampling_params=params)
        fresh = running.generate(
            [*PROMPT, *forced], adapter="plan", sampling_params=params, cache_salt="apart"
        )
    assert cached.cached_tokens > fresh.cached_tokens == 0
    assert cached.token_ids == fresh.token_ids
