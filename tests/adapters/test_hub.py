"""Adapters by their hub name: the local folder first, then the local cache, then the hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from lragent.adapters import AdapterError
from lragent.adapters.hub import adapter_folder

NAME = "owner/plan-lora"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Any]:
    """What was fetched from a hub that has everything."""
    calls: list[Any] = []

    def fetch(name: str, allow_patterns: list[str]) -> str:
        calls.append((name, allow_patterns))
        return str(tmp_path / "fetched")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: None)
    return calls


def test_a_hub_name_is_fetched_without_other_files(asked: list[Any], tmp_path: Path):
    assert adapter_folder(NAME) == tmp_path / "fetched"
    wanted = ["adapter_config.json", "adapter_model.safetensors", "lragent.json"]
    assert asked == [(NAME, wanted)]


@pytest.mark.parametrize("path", ["plan", "./owner/plan", "/a/b", "~/a", "a/b/c", "", Path(NAME)])
def test_paths_are_no_hub_names(asked: list[Any], path: str | Path):
    adapter_folder(path)
    assert asked == []


def test_a_local_folder_of_that_name_comes_first(asked: list[Any], tmp_path: Path):
    (tmp_path / NAME).mkdir(parents=True)
    assert adapter_folder(NAME) == Path(NAME)
    assert asked == []


def test_the_local_cache_needs_no_network(
    asked: list[Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    def cached(name: str, file: str) -> str:
        return str(tmp_path / "cache" / file)

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", cached)
    assert adapter_folder(NAME) == tmp_path / "cache"
    assert asked == []


def test_a_hub_that_has_it_not(asked: list[Any], monkeypatch: pytest.MonkeyPatch):
    def fail(name: str, allow_patterns: list[str]) -> str:
        raise OSError(f"{name} is not there\nlong story")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(AdapterError, match=r"no adapter folder owner/plan-lora.*is not there$"):
        adapter_folder(NAME)
