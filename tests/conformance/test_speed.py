"""Speed against peers in the same run. Run alone: `pytest -m timing`."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lragent.engine import Engine, SamplingParams

pytestmark = pytest.mark.timing
CONTEXT = 2048
REPEATS = 5


def test_a_mixed_batch_beats_one_after_another(
    engine_with: Callable[..., Engine], text_ids: Callable[[int], list[int]]
):
    """Eight requests of three adapters and the base model, at least twice as fast together."""
    params = SamplingParams(max_tokens=48, ignore_eos=True)
    names = ("plan", "act", "reflect", None) * 2

    def together(engine: Engine, salt: str) -> float:
        start = time.perf_counter()
        requests = [
            engine.submit(text_ids(24 + i), adapter=name, sampling_params=params, cache_salt=salt)
            for i, name in enumerate(names)
        ]
        for request in requests:
            request.result()
        return time.perf_counter() - start

    def one_by_one(engine: Engine, salt: str) -> float:
        start = time.perf_counter()
        for i, name in enumerate(names):
            engine.generate(text_ids(24 + i), adapter=name, sampling_params=params, cache_salt=salt)
        return time.perf_counter() - start

    with engine_with() as engine:
        together(engine, "warm-up")
        ratios = [one_by_one(engine, f"a{i}") / together(engine, f"b{i}") for i in range(3)]
    print("one after another / together:", ratios)
    assert statistics.median(ratios) >= 2


def test_the_next_agent_starts_as_fast_as_the_same_one(
    engine_with: Callable[..., Engine], text_ids: Callable[[int], list[int]]
):
    """Time to first token on 2,048 cached tokens: within 1.25 of warm, a tenth of isolated."""
    params = SamplingParams(max_tokens=1, ignore_eos=True)
    context, longer = text_ids(CONTEXT), text_ids(CONTEXT + 8)

    def ttft(engine: Engine, name: str, salt: str) -> float:
        done = engine.generate(longer, adapter=name, sampling_params=params, cache_salt=salt)
        assert done.ttft_s is not None
        return done.ttft_s

    def measure(engine: Engine, names: list[str], repeats: int) -> list[float]:
        """Medians by name; the names take turns, so that a slow minute is slow for all."""
        times: dict[str, list[float]] = {name: [] for name in names}
        for i in range(repeats):
            for name in names:
                salt = f"{name} {i}"
                engine.generate(context, adapter="plan", sampling_params=params, cache_salt=salt)
                times[name].append(ttft(engine, name, salt))
        return [statistics.median(found) for found in times.values()]

    with engine_with("base+lr") as engine:
        measure(engine, ["plan"], 1)
        warm, handed = measure(engine, ["plan", "act"], REPEATS)
    with engine_with("isolated") as engine:
        [isolated] = measure(engine, ["act"], 3)
    print("warm, handed over, isolated:", warm, handed, isolated)
    assert handed <= 1.25 * warm
    assert isolated >= 10 * handed


@pytest.fixture(params=[1, 2], ids=["one thread", "two threads"])
def threads(request: pytest.FixtureRequest) -> Iterator[None]:
    """Torch's threads, for everything that is measured."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
@torch.inference_mode()
def test_decoding_is_at_least_as_fast_as_generate(
    engine_with: Callable[..., Engine],
    adapters: dict[str, Path],
    loaded: tuple[PreTrainedModel, PreTrainedTokenizerBase],
    text_ids: Callable[[int], list[int]],
):
    """Same adapter, dtype and 2,048 tokens of context; time between tokens, prefill left out."""
    few, many = 4, 36
    prompt = text_ids(CONTEXT)
    ids = torch.tensor([prompt])
    model = loaded[0]
    assert model.generation_config is not None
    model.generation_config.eos_token_id = None
    peft = PeftModel.from_pretrained(model, str(adapters["plan"])).eval()

    class Clock:
        """A streamer that notes when each token comes."""

        def __init__(self) -> None:
            self.times: list[float] = []

        def put(self, _value: object) -> None:
            self.times.append(time.perf_counter())

        def end(self) -> None: ...

    def theirs() -> float:
        clock = Clock()
        peft.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=many,
            do_sample=False,
            streamer=clock,
            pad_token_id=0,
        )
        gaps = [b - a for a, b in zip(clock.times[few:], clock.times[few + 1 :], strict=False)]
        return statistics.median(gaps)

    def ours(engine: Engine) -> float:
        params = SamplingParams(max_tokens=many, ignore_eos=True)
        times = []
        for _ in engine.generate(prompt, adapter="plan", sampling_params=params, stream=True):
            times.append(time.perf_counter())
        gaps = [b - a for a, b in zip(times[few:-1], times[few + 1 : -1], strict=False)]
        return statistics.median(gaps)

    with engine_with() as engine:
        ours(engine)
        pairs = [(theirs(), ours(engine)) for _ in range(3)]
    peft.unload()
    print("generate, ours, seconds a token:", pairs)
    assert statistics.median(a / b for a, b in pairs) >= 1
