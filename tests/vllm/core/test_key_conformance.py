"""Key conformance of the plugin."""

# pyright: reportMissingImports=false, reportAttributeAccessIssue=false

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

import pytest
from tests.engine.models import prompt_of
from tests.vllm.core.world import PAGE, World
from tests.vllm.serving import folders

pytestmark = pytest.mark.every_version


@pytest.fixture(scope="module")
def apart(root: Path, tmp_path_factory: pytest.TempPathFactory) -> World:
    adapters = folders(root, "own")
    copy = shutil.copytree(adapters["plan"], tmp_path_factory.mktemp("copies") / "copy")
    return World(
        root / "llama", {**adapters, "copy": copy}, {"slots": 1, "allow_other_base": True}, 200
    )


def cached(world: World, name: str | None, tokens: list[int], salt: str | None) -> int:
    before = world.hit
    world.submit(name, tokens, salt=salt)
    world.finish()
    return world.hit - before


def test_tenants_and_adapters(apart: World):
    """Every pair of a tenant and an adapter; a salt may be any other's extra key."""
    contents = {"plan": "plan", "copy": "plan", "act": "act", None: None}
    first = apart.submit("plan", prompt_of(3))
    apart.finish()
    [key] = apart.bindings[first].keys
    who = list(itertools.product((None, "plan", key, "bob"), contents))
    for number, (wrote, reads) in enumerate(itertools.product(who, repeat=2)):
        tokens = prompt_of(PAGE + 1, seed=number)
        hit = [cached(apart, name, tokens, salt) > 0 for salt, name in (wrote, reads)]
        equal = wrote[0] == reads[0] and contents[wrote[1]] == contents[reads[1]]
        assert hit == [False, equal], (wrote, reads)
