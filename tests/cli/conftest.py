"""A tiny random Llama with a word-level tokenizer, adapters for it, and a few documents."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tests.adapters.factory import make_adapter, tiny_llama
from tests.engine.tokenizer import word_tokenizer


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Layers this small lose far more to threads that wait for each other than they gain."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "Llama-Test"
    tiny_llama().save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def adapters_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("adapters")
    model = tiny_llama()
    plan = make_adapter(root / "plan", model)
    make_adapter(root / "act", model, seed=2, share_a_with=plan)
    make_adapter(root / "reflect", model, seed=3, share_a_with=plan)
    return root


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "bridge.md").write_text("# Oland Bridge\n\nOland Bridge was opened in 1873.\n")
    return folder
