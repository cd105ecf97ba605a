"""Identity of adapters outside of groups: contents decide, whatever happens to names and files."""

# pyright: reportMissingImports=false

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.engine.models import prompt_of
from tests.vllm.serving import PAGE, Ask, Embedded, Served, folders

CONTEXT = prompt_of(150)
FULL = len(CONTEXT) // PAGE * PAGE


@pytest.fixture(scope="module")
def adapters(root: Path) -> dict[str, Path]:
    """Three ungrouped adapters, and ``copy``, the weights of ``plan`` in another folder."""
    found = folders(root, "own")
    copy = root / "copies" / "copy"
    shutil.copytree(found["plan"], copy)
    return {**found, "copy": copy}


@pytest.fixture(scope="module")
def engine(root: Path, adapters: dict[str, Path]) -> Iterator[Served]:
    with Served(root / "llama", adapters, {"allow_other_base": True}) as served:
        yield served


@pytest.fixture
def apart(engine: Served) -> Served:
    engine.reset()
    return engine


def cached(served: Served, name: str | None) -> int:
    [answer] = served.ask(Ask(name, CONTEXT), tokens=2)
    return answer.cached


@pytest.mark.parametrize("in_place", [True, False])
def test_weights_replaced_in_their_folder(
    in_place: bool,
    root: Path,
    adapters: dict[str, Path],
    tmp_path: Path,
    apart: Served,
    monkeypatch: pytest.MonkeyPatch,
):
    """With ``load_inplace`` the new weights serve under the old number; else the old ones do."""
    apart.reset()
    folder = tmp_path / "plan"
    shutil.copytree(adapters["plan"], folder)
    monkeypatch.setitem(apart.paths, "plan", str(folder))
    monkeypatch.setitem(apart.ids, "plan", 80 + in_place)
    old = apart.ask(Ask("plan", CONTEXT))[0]
    assert old.cached == 0
    for file in adapters["reflect"].iterdir():
        shutil.copyfile(file, folder / file.name)
    again = apart.ask(Ask("plan", CONTEXT), in_place=in_place)[0]
    if not in_place:
        assert again.tokens == old.tokens
        assert again.cached == FULL
        return
    assert again.cached == 0
    with Embedded({"reflect": adapters["reflect"]}, "isolated") as embedded:
        assert again.tokens == embedded.ask(Ask("reflect", CONTEXT))[0].tokens
    assert apart.ask(Ask("plan", CONTEXT), in_place=True)[0].cached == FULL


def test_same_weights_under_another_name_hit(apart: Served):
    assert cached(apart, "plan") == 0
    assert cached(apart, "copy") == FULL
    assert cached(apart, "act") == 0


def test_two_names_at_once_for_one_content(apart: Served):
    """One batch, two names and numbers, one place among vLLM's adapters."""
    one, two = apart.ask(Ask("plan", CONTEXT), Ask("copy", CONTEXT))
    assert one.tokens == two.tokens


def test_two_numbers_at_once_under_one_name(
    apart: Served, root: Path, monkeypatch: pytest.MonkeyPatch
):
    """Stock vLLM dies of this batch."""
    asks = [Ask("plan", CONTEXT), Ask("reflect", CONTEXT)]
    expected = [answer.tokens for answer in apart.ask(*asks)]
    apart.reset()
    requests = [apart.lora("plan"), apart.lora("reflect")]
    requests[1].lora_name = "plan"
    got = apart.ask(*asks, lora=requests)
    assert [answer.tokens for answer in got] == expected


def test_a_key_without_the_digest_is_noticed(
    apart: Served, root: Path, monkeypatch: pytest.MonkeyPatch
):
    """The planted fault: keys made of names, as stock vLLM makes them."""
    from vllm.v1.core import kv_cache_utils

    apart.reset()
    monkeypatch.setattr(kv_cache_utils, "_gen_lora_extra_hash_keys", lambda request: ["plan"])
    assert cached(apart, "plan") == 0
    monkeypatch.setitem(apart.paths, "plan", str(root / "own" / "reflect"))
    monkeypatch.setitem(apart.ids, "plan", 78)
    assert cached(apart, "plan") == FULL, "other weights were meant to hit under this fault"
