from __future__ import annotations

from pathlib import Path

import pytest
from tests.adapters.factory import make_adapter, tiny_llama
from transformers import LlamaForCausalLM


@pytest.fixture(scope="session")
def model() -> LlamaForCausalLM:
    return tiny_llama()


@pytest.fixture
def folder(tmp_path: Path, model: LlamaForCausalLM) -> Path:
    """A good adapter, for a test to spoil."""
    return make_adapter(tmp_path / "plan", model)
