"""Handles: streaming, cancelling, failing clients, threads, and refused input."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tests.adapters.factory import make_adapter
from tests.engine.models import SIZES, prompt_of, tiny_model
from tests.engine.tokenizer import byte_tokenizer
from transformers import AutoConfig, AutoModelForCausalLM

from lragent.adapters import AdapterError
from lragent.engine import Engine, SamplingParams
from lragent.engine.errors import (
    BudgetError,
    EngineClosedError,
    GenerationFailedError,
    PromptTooLongError,
    UnknownAdapterError,
)

PROMPT = prompt_of(40)
PARAMS = SamplingParams(max_tokens=10, ignore_eos=True)


@pytest.fixture
def engine(shared_a: dict[str, Path]) -> Iterator[Engine]:
    """Whatever a test does to it, it must go on serving and keep its books."""
    with Engine((tiny_model(), None), shared_a, "base+lr") as engine:
        yield engine
        engine.check_integrity()
        done = engine.generate(PROMPT, adapter="plan", sampling_params=PARAMS)
        assert len(done.token_ids) == 10
        assert engine.stats().pages["leased"] == 0


def chat_engine() -> Engine:
    torch.manual_seed(0)
    config = AutoConfig.for_model("llama", **{**SIZES, "vocab_size": 260})
    return Engine((AutoModelForCausalLM.from_config(config), byte_tokenizer()))


def test_chunks_add_up_to_the_result(engine: Engine):
    request = engine.generate(PROMPT, adapter="plan", sampling_params=PARAMS, stream=True)
    chunks = list(request)
    assert [len(chunk.token_ids) for chunk in chunks] == [1] * 10 + [0]
    assert [chunk.finish_reason for chunk in chunks] == [None] * 10 + ["length"]
    result = request.result()
    assert result.token_ids == tuple(t for chunk in chunks for t in chunk.token_ids)
    assert result.ttft_s is not None
    assert 0 < result.ttft_s <= result.total_s


def test_chat_uses_the_template_and_stops_at_stop_texts():
    with chat_engine() as engine:
        assert engine.tokenizer is not None
        messages = [{"role": "user", "content": "Hi"}]
        ids = engine.render(messages)
        assert engine.tokenizer.decode(ids) == "<|user|>Hi<|end|><|assistant|>"
        open_end = [*messages, {"role": "assistant", "content": "Thought 1:"}]
        ids = engine.render(open_end, continue_final_message=True)
        assert str(engine.tokenizer.decode(ids)).endswith("<|assistant|>Thought 1:")
        params = SamplingParams(max_tokens=40, temperature=1.5, seed=1, ignore_eos=True)
        free = engine.chat(messages, sampling_params=params)
        assert len(free.text) > 10
        stop = free.text[6:8]
        stopped = engine.chat(messages, sampling_params=params.model_copy(update={"stop": (stop,)}))
        assert stopped.text == free.text[: free.text.index(stop)]
        assert stopped.finish_reason == "stop"


def test_leaving_a_stream_early_cancels_the_request(engine: Engine):
    request = engine.generate(PROMPT, adapter="plan", sampling_params=PARAMS, stream=True)
    for chunk in request:
        assert chunk.token_ids
        break
    assert request.done
    assert engine.stats().pages["leased"] == 0
    assert engine.stats().adapters["plan"].cancelled == 1


def test_a_client_that_raises_gives_its_pages_back(engine: Engine):
    def client() -> None:
        for _ in engine.generate(PROMPT, adapter="act", sampling_params=PARAMS, stream=True):
            raise KeyError("client's own mistake")

    with pytest.raises(KeyError):
        client()
    assert engine.stats().pages["leased"] == 0


@pytest.mark.parametrize("steps", [0, 1, 4])
def test_cancel_keeps_what_was_generated(engine: Engine, steps: int):
    request = engine.submit(PROMPT, adapter="plan", sampling_params=PARAMS)
    for _ in range(steps):
        engine.step()
    request.cancel()
    request.cancel()
    result = request.result()
    assert (len(result.token_ids), result.finish_reason) == (steps, "cancelled")


def test_a_failing_forward_pass_ends_its_requests_only(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
):
    request = engine.submit(PROMPT, adapter="plan", sampling_params=PARAMS)
    with monkeypatch.context() as patch:

        def fail(*_: object) -> None:
            raise RuntimeError("device lost")

        patch.setattr(engine._runner, "run", fail)
        with pytest.raises(GenerationFailedError, match="RuntimeError: device lost"):
            request.result()
    assert engine.stats().adapters["plan"].failed == 1


def test_threads_share_the_engine(engine: Engine):
    alone = engine.generate(PROMPT, adapter="reflect", sampling_params=PARAMS).token_ids
    answers: list[tuple[int, ...]] = []

    def client() -> None:
        answers.append(engine.generate(PROMPT, adapter="reflect", sampling_params=PARAMS).token_ids)

    threads = [threading.Thread(target=client) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [alone] * 4


def test_unknown_adapter_names_near_misses(engine: Engine):
    with pytest.raises(UnknownAdapterError, match="'plann' is loaded; did you mean 'plan'"):
        engine.generate(PROMPT, adapter="plann")


def test_prompt_longer_than_the_model(engine: Engine):
    with pytest.raises(PromptTooLongError, match=r"2048 tokens and the model's limit is 2048"):
        engine.generate(prompt_of(2048))


@pytest.mark.parametrize(
    ("prompt", "message"),
    [([], "empty"), ([0, 96], "between 0 and 95"), ([-1], "between 0"), ("text", "no tokenizer")],
)
def test_impossible_prompts(engine: Engine, prompt: list[int] | str, message: str):
    with pytest.raises(ValueError, match=message):
        engine.generate(prompt)


def test_stop_texts_need_a_tokenizer(engine: Engine):
    with pytest.raises(ValueError, match="tokenizer"):
        engine.submit(PROMPT, sampling_params=SamplingParams(stop=("x",)))


def test_budget_too_small_for_one_request(shared_a: dict[str, Path]):
    page = 3 * (2 * 2 * 8 * 16 + 16 * 4) * 4
    with Engine((tiny_model(), None), shared_a, kv_bytes=4 * page) as engine:
        with pytest.raises(BudgetError, match=rf"need 5 pages .* holds 4.*{5 * page:,}"):
            engine.generate(prompt_of(70), sampling_params=SamplingParams(max_tokens=10))
        engine.check_integrity()
        done = engine.generate(prompt_of(54), sampling_params=PARAMS)
        assert len(done.token_ids) == 10


def test_budget_below_one_page(shared_a: dict[str, Path]):
    with pytest.raises(BudgetError, match="raise kv_bytes"):
        Engine((tiny_model(), None), shared_a, kv_bytes=1000)


def test_a_bad_adapter_leaves_the_engine_as_it_was(engine: Engine, tmp_path: Path):
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(AdapterError):
        engine.load_adapter("bad", tmp_path)
    with pytest.raises(AdapterError, match="no adapter folder"):
        engine.load_adapter("bad", tmp_path / "nowhere")
    assert "bad" not in engine.adapters


def test_wrong_base_model_is_refused(engine: Engine, tmp_path: Path):
    other = tiny_model()
    other.name_or_path = other.config._name_or_path = "someone/else"
    folder = make_adapter(tmp_path / "else", other)
    with pytest.raises(AdapterError, match=r"someone/else"):
        engine.load_adapter("else", folder)


def test_unknown_policy(shared_a: dict[str, Path]):
    with pytest.raises(ValueError, match=r"isolated, neutral, full, base, base\+lr"):
        Engine((tiny_model(), None), shared_a, "shared")


def test_a_closed_engine_refuses_work(shared_a: dict[str, Path]):
    engine = Engine((tiny_model(), None), shared_a)
    running = engine.submit(PROMPT, sampling_params=PARAMS)
    engine.step()
    engine.close()
    engine.close()
    assert running.result().finish_reason == "cancelled"
    with pytest.raises(EngineClosedError):
        engine.generate(PROMPT)


def test_the_hooked_model_cannot_be_called_past_the_engine(engine: Engine):
    with pytest.raises(RuntimeError, match="load another copy"):
        engine._runner.model(input_ids=torch.tensor([PROMPT]))
