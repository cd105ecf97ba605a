from __future__ import annotations

import pytest
from tests.adapters.factory import tiny_llama
from transformers import LlamaForCausalLM


@pytest.fixture(scope="session")
def model() -> LlamaForCausalLM:
    return tiny_llama()
