"""What a page is found by: contents and tenants, never names or numbers.

Every miss has a positive control: the same request again, or the same contents, hits.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.engine.models import prompt_of
from tests.vllm.serving import PAGE, Ask, Served, folders, sharing

CONTEXT = prompt_of(150)
FULL = len(CONTEXT) // PAGE * PAGE


@pytest.fixture(scope="module", params=["apart", "base", "base+lr", "full"])
def engine(request: pytest.FixtureRequest, root: Path) -> Iterator[Served]:
    adapters = folders(root, "shared")
    apart = {"allow_other_base": True}
    option = apart if request.param == "apart" else sharing(request.param, adapters)
    with Served(root / "llama", adapters, option) as served:
        yield served


@pytest.fixture
def served(engine: Served) -> Served:
    engine.reset()
    return engine


def cached(served: Served, name: str | None, salt: str | None = None) -> int:
    [answer] = served.ask(Ask(name, CONTEXT, salt), tokens=2)
    return answer.cached


def test_other_weights_under_one_name_miss(
    served: Served, root: Path, monkeypatch: pytest.MonkeyPatch
):
    """As after unload and load under a name: vLLM gives the name a new number."""
    assert cached(served, "plan") == 0
    assert cached(served, "plan") == FULL
    monkeypatch.setitem(served.paths, "plan", str(root / "own" / "reflect"))
    monkeypatch.setitem(served.ids, "plan", 77)
    assert cached(served, "plan") == 0
    assert cached(served, "plan") == FULL


def test_tenants_never_share(served: Served):
    assert cached(served, "plan", "one") == 0
    assert cached(served, "plan", "two") == 0
    assert cached(served, "plan") == 0
    assert cached(served, "plan", "one") == FULL
    assert cached(served, "plan", "two") == FULL


def test_the_base_model_stays_apart(served: Served):
    assert cached(served, "plan") == 0
    assert cached(served, None) == 0
    assert cached(served, None) == FULL
