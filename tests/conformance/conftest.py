from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lragent.agents.demo import demo_adapters, demo_text
from lragent.engine import Engine
from lragent.engine.loader import load_model

MODEL = "smollm2"


@pytest.fixture(scope="session")
def adapters() -> dict[str, Path]:
    return demo_adapters()


@pytest.fixture(scope="session")
def loaded() -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model as transformers runs it, in fp32."""
    return load_model(MODEL)


@pytest.fixture(scope="session")
def text_ids(loaded: tuple[PreTrainedModel, PreTrainedTokenizerBase]) -> Callable[[int], list[int]]:
    """Token ids of that many tokens of running text, the project's own demo documents."""
    ids = loaded[1](demo_text())["input_ids"]
    assert isinstance(ids, list)

    def cut(length: int) -> list[int]:
        assert len(ids) >= length
        return ids[:length]

    return cut


@pytest.fixture
def engine_with(adapters: dict[str, Path]) -> Callable[..., Engine]:
    """Starts an engine on its own copy of the model, with the bundled adapters."""

    def start(sharing: str = "isolated", **options: object) -> Engine:
        return Engine(MODEL, adapters, sharing, **options)  # pyright: ignore[reportArgumentType]

    return start
