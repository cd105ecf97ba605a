"""Versions and symbols: an unknown vLLM is refused by name, and only where the option is used."""

# pyright: reportMissingImports=false, reportAttributeAccessIssue=false

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

from lragent.vllm import patching
from lragent.vllm.errors import PluginError
from lragent.vllm.frontend import config_check
from lragent.vllm.versions.symbols import SYMBOLS, VERSIONS, Symbol, drift, missing, used

pytestmark = pytest.mark.every_version


def test_this_vllm_is_known():
    assert drift() is None


def test_each_symbol_belongs_to_known_versions():
    assert {version for symbol in SYMBOLS for version in symbol.versions} == set(VERSIONS)
    assert all(symbol.versions for symbol in SYMBOLS)
    assert len(used()) < len(SYMBOLS), "each version was meant to have symbols of its own"


def owners(symbol: Symbol) -> tuple[list[Any], str]:
    """Every module or class that holds the symbol's last name, the one it is looked up in first."""
    owner: Any = importlib.import_module(symbol.module)
    *path, last = symbol.name.split(".")
    for part in path:
        owner = getattr(owner, part)
    return [o for o in getattr(owner, "__mro__", (owner,)) if last in vars(o)], last


@pytest.mark.parametrize("symbol", used(), ids=str)
def test_each_lost_symbol_is_named(symbol: Symbol, monkeypatch: pytest.MonkeyPatch):
    found, name = owners(symbol)
    for owner in found:
        if owner is not object:
            monkeypatch.delattr(owner, name)
    assert missing([symbol]) == [f"{symbol} is gone"]
    assert str(symbol) in (drift() or "")


@pytest.mark.parametrize("symbol", [s for s in used() if s.parameters], ids=str)
def test_each_lost_parameter_is_named(symbol: Symbol, monkeypatch: pytest.MonkeyPatch):
    found, name = owners(symbol)
    monkeypatch.setattr(found[0], name, lambda: None)
    lost = ", ".join(symbol.parameters or ())
    assert missing([symbol]) == [f"{symbol} takes no {lost}"]
    assert f"{symbol} takes no {lost}" in (drift() or "")


def test_an_unknown_version_is_named(monkeypatch: pytest.MonkeyPatch):
    import vllm.version

    monkeypatch.setattr(vllm.version, "__version__", "0.31.2")
    problem = drift()
    assert problem is not None
    assert "0.31.2" in problem
    assert VERSIONS[0] in problem


@pytest.fixture
def unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if ``register`` had found a vLLM that it does not know."""
    from vllm.config import VllmConfig
    from vllm.plugins import load_general_plugins

    load_general_plugins()
    key = (id(VllmConfig), "__post_init__")
    stock = patching._done.pop(key)
    monkeypatch.setattr(VllmConfig, "__post_init__", stock)
    config_check.install("this vLLM is unknown")
    patched = VllmConfig.__post_init__
    monkeypatch.setattr(VllmConfig, "__post_init__", patched)
    monkeypatch.setitem(patching._done, key, stock)


def test_an_unknown_vllm_refuses_the_option_and_nothing_else(unknown: None, root: Path):
    from vllm.engine.arg_utils import EngineArgs

    def make(**more: Any) -> Any:
        args = {"model": str(root / "llama"), "enable_lora": True, "max_lora_rank": 8, **more}
        return EngineArgs(**args).create_engine_config()

    assert make().additional_config == {}
    with pytest.raises((PluginError, ValueError), match="this vLLM is unknown"):
        make(additional_config={"lragent": {}})
