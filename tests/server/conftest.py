from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
import torch
from tests.adapters.factory import make_adapter
from tests.server.serving import Served, byte_llama, serving


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Layers this small lose far more to threads that wait for each other than they gain."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Three adapters with one A."""
    root, model = tmp_path_factory.mktemp("adapters"), byte_llama()
    plan = make_adapter(root / "plan", model)
    act = make_adapter(root / "act", model, seed=2, share_a_with=plan)
    reflect = make_adapter(root / "reflect", model, seed=3, share_a_with=plan)
    return {"plan": plan, "act": act, "reflect": reflect}


@pytest.fixture(scope="module")
def served(adapters: dict[str, Path]) -> Iterator[Served]:
    with serving({name: adapters[name] for name in ("plan", "act")}) as server:
        yield server
        server.idle()


@pytest.fixture
def client(served: Served) -> Iterator[openai.OpenAI]:
    with served.client() as made:
        yield made
