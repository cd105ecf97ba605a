"""A small engine for hostile input, with a request beside it whose answer must not change."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.adapters.factory import make_adapter
from tests.engine.models import SIZES, prompt_of
from tests.engine.tokenizer import byte_tokenizer
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from lragent.engine import Engine, SamplingParams

PROMPT = prompt_of(20)
PARAMS = SamplingParams(max_tokens=3, ignore_eos=True)
SECONDS = 2.0

Beside = Callable[[Callable[[], Any]], Any]
"""Does something hostile while a request runs, and returns what came of it."""


def text_model() -> PreTrainedModel:
    """The tiny Llama for the tokens of `byte_tokenizer`."""
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(
        AutoConfig.for_model("llama", **{**SIZES, "vocab_size": 260})
    )


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_adapter(tmp_path_factory.mktemp("hostile") / "plan", text_model())


@pytest.fixture(scope="module")
def engine(plan: Path) -> Iterator[Engine]:
    with Engine((text_model(), byte_tokenizer()), {"plan": plan}, allow_other_base=True) as engine:
        yield engine


@pytest.fixture(scope="module")
def beside(engine: Engine) -> Beside:
    """The bystander's answer and the books are checked, and that it takes no more than seconds."""
    alone = engine.generate(PROMPT, adapter="plan", sampling_params=PARAMS).token_ids

    def do(call: Callable[[], Any]) -> Any:
        bystander = engine.submit(PROMPT, adapter="plan", sampling_params=PARAMS)
        engine.step()
        started = time.process_time()
        try:
            return call()
        finally:
            assert time.process_time() - started < SECONDS
            assert bystander.result().token_ids == alone
            engine.check_integrity()

    return do
