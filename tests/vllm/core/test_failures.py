"""Whatever fails while an adapter comes: its request is refused, others go on, a retry succeeds."""

# pyright: reportMissingImports=false, reportAttributeAccessIssue=false

from __future__ import annotations

import errno
import itertools
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.engine.models import prompt_of
from tests.proof.failures import Point, until_success
from tests.proof.points import READ, no_space
from tests.vllm.core.world import World
from tests.vllm.serving import folders

from lragent.adapters import AdapterError

POINTS = {
    **READ,
    "copy": Point(lambda: OSError(errno.EIO, "Input/output error"), ((shutil, "copyfile"),)),
    "full disk": Point(no_space, ((tempfile, "mkdtemp"), (shutil, "copyfile"))),
}


@pytest.fixture(scope="module")
def world(root: Path) -> Iterator[World]:
    world = World(
        root / "llama", folders(root, "own"), {"slots": 1, "allow_other_base": True}, pages=20
    )
    world.submit("act", prompt_of(20))
    world.finish()
    yield world
    world.plugin.store.close()


@pytest.mark.parametrize("point", POINTS)
def test_an_adapter_comes(world: World, root: Path, tmp_path: Path, point: str):
    numbers = itertools.count(100 * (1 + list(POINTS).index(point)))
    copies = Path(world.plugin.store._copies.path)
    served = []

    def asks() -> str:
        """A request for weights that were never seen, under a new number."""
        number = next(numbers)
        folder = shutil.copytree(root / "own" / "plan", tmp_path / str(number))
        config = json.loads((folder / "adapter_config.json").read_text())
        (folder / "adapter_config.json").write_text(
            json.dumps(config | {"lora_alpha": config["lora_alpha"] + number})
        )
        world.adapters["new"], world.ids["new"] = folder, number
        return "new"

    def work() -> None:
        world.submit("act", prompt_of(20), new=2)
        before = sorted(copies.iterdir())
        try:
            world.submit("new", prompt_of(20))
        except AdapterError:
            assert sorted(copies.iterdir()) == before
            served.append(False)
        else:
            served.append(True)
        world.finish()

    def check() -> None:
        world.plugin.validity.check_integrity(world.scheduler.requests)
        world.submit("new", prompt_of(20))
        world.finish()
        asks()

    asks()
    assert until_success(POINTS[point], work, check) == len(served) - 1
    assert (served[0], served[-1]) == (False, True)
