"""Where adapters come from, and what is left of their copies."""

# pyright: reportMissingImports=false

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lragent.adapters.errors import AdapterError
from lragent.cache.keys import KeyScope
from lragent.vllm.core.adapters import AdapterNotFoundError, AdapterStore
from lragent.vllm.core.copies import PREFIX, CopyFolder
from lragent.vllm.core.registry import AdapterRegistry
from lragent.vllm.options import parse_options


@pytest.fixture
def store() -> Any:
    made = AdapterStore(8, lambda adapter: None)
    yield made
    made.close()


def test_a_name_on_the_hub(store: AdapterStore, root: Path, monkeypatch: pytest.MonkeyPatch):
    from vllm.lora import utils

    asked: list[str] = []

    def download(repo_id: str) -> str:
        asked.append(repo_id)
        return str(root / "own" / "plan")

    hub = SimpleNamespace(snapshot_download=download)
    monkeypatch.setattr(utils, "hf_api", lambda: hub)
    assert store.read("agents/plan").digest == store.read(str(root / "own" / "plan")).digest
    assert asked == ["agents/plan"]


@pytest.mark.parametrize("path", ["/nowhere/at/all", "~/no/such/folder", "no/such/name"])
def test_nothing_there(path: str, store: AdapterStore):
    with pytest.raises(AdapterNotFoundError, match=f"no adapter at {path}; give a local folder"):
        store.read(path)


def test_a_folder_without_an_adapter_is_another_error(store: AdapterStore, tmp_path: Path):
    with pytest.raises(AdapterError, match="no adapter_config") as caught:
        store.read(str(tmp_path))
    assert not isinstance(caught.value, AdapterNotFoundError)


LEAVE = """
import os, sys
from pathlib import Path
from lragent.vllm.core.copies import CopyFolder
folder = CopyFolder(Path(sys.argv[1]))
(folder.new() / "adapter_model.safetensors").write_text("weights")
print(folder.path, flush=True)
if sys.argv[2] == "stays":
    sys.stdin.read()
os._exit(0)  # as a process that is killed
"""


def start(root: Path, how: str) -> tuple[subprocess.Popen[str], Path]:
    process = subprocess.Popen(
        [sys.executable, "-c", LEAVE, str(root), how],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def test_copies_of_ended_processes_are_deleted_and_those_of_others_are_not(tmp_path: Path):
    killed, left = start(tmp_path, "goes")
    killed.wait(60)
    running, used = start(tmp_path, "stays")
    assert not left.exists(), "the next process was meant to delete it"
    foreign = tmp_path / f"{PREFIX}without-a-lock"
    foreign.mkdir()
    mine = CopyFolder(tmp_path)
    assert used.is_dir()
    assert foreign.is_dir()
    running.communicate("", timeout=60)
    assert used.is_dir()
    other = CopyFolder(tmp_path)
    assert not used.exists()
    assert mine.path.is_dir()
    for folder in (mine, other):
        folder.close()
        assert not folder.path.exists()
    shutil.rmtree(foreign)


def test_an_adapter_trained_for_another_policy_warns_once_by_name(
    store: AdapterStore, root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    folder = shutil.copytree(root / "own" / "plan", tmp_path / "tuned")
    sidecar = {"schema": 1, "group": "g", "role": "r", "a_digest": {}, "trained_for": "neutral"}
    (folder / "lragent.json").write_text(json.dumps(sidecar))
    for policy, count in (("neutral", 0), ("base+lr", 1), ("base+lr", 1)):
        options = parse_options({"policy": policy, "groups": [["tuned"]]})
        AdapterRegistry(options, store, KeyScope(*[""] * 6)).load("tuned", 1, str(folder))
        assert len(caplog.records) == count
    assert "'tuned' was trained for the sharing policy 'neutral'" in caplog.messages[0]
