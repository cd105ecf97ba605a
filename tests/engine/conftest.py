from __future__ import annotations

import inspect
from pathlib import Path

import pytest
from tests.adapters.factory import make_adapter
from tests.engine.models import tiny_model
from transformers import PreTrainedModel

from lragent.engine import Engine


@pytest.fixture(scope="session")
def tiny() -> PreTrainedModel:
    """Never hand this one to an engine: it stays the reference. See `fresh`."""
    return tiny_model()


@pytest.fixture
def fresh() -> PreTrainedModel:
    """The same weights as `tiny`, for an engine to own."""
    return tiny_model()


@pytest.fixture(scope="session")
def shared_a(tmp_path_factory: pytest.TempPathFactory, tiny: PreTrainedModel) -> dict[str, Path]:
    """Three adapters with one A on v_proj."""
    root = tmp_path_factory.mktemp("shared_a")
    plan = make_adapter(root / "plan", tiny, rank=4, seed=1)
    act = make_adapter(root / "act", tiny, rank=4, seed=2, share_a_with=plan)
    reflect = make_adapter(root / "reflect", tiny, rank=4, seed=3, alpha=4, share_a_with=plan)
    return {"plan": plan, "act": act, "reflect": reflect}


@pytest.fixture(scope="session")
def ordinary(tmp_path_factory: pytest.TempPathFactory, tiny: PreTrainedModel) -> dict[str, Path]:
    """Three adapters of different ranks, each with an A of its own."""
    root = tmp_path_factory.mktemp("ordinary")
    return {
        "plan": make_adapter(root / "plan", tiny, rank=4, seed=4),
        "act": make_adapter(root / "act", tiny, rank=3, seed=5),
        "reflect": make_adapter(root / "reflect", tiny, rank=6, seed=6, use_rslora=True),
    }


@pytest.fixture(autouse=True)
def proves_its_books(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every engine of these tests checks its cache whenever it is idle."""
    defaults = inspect.unwrap(Engine.__init__).__kwdefaults__
    assert defaults is not None
    monkeypatch.setitem(defaults, "debug", True)
