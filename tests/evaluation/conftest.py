"""A tiny random Llama with words as tokens, and groups of adapters that sharing treats unlike."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.adapters.factory import make_adapter, tiny_llama
from tests.engine.tokenizer import word_tokenizer

ROLES = ("plan", "act", "reflect")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Layers this small lose far more to threads that wait for each other than they gain."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "Llama-Test"
    tiny_llama().save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    return folder


def make_group(root: Path, **options: Any) -> dict[str, Path]:
    """Three adapters with one A on v_proj; options as for `make_adapter`."""
    model = tiny_llama()
    plan = make_adapter(root / "plan", model, seed=1, **options)
    return {
        "plan": plan,
        "act": make_adapter(root / "act", model, seed=2, share_a_with=plan, **options),
        "reflect": make_adapter(root / "reflect", model, seed=3, share_a_with=plan, **options),
    }


@pytest.fixture(scope="session")
def group(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_group(tmp_path_factory.mktemp("group"))
