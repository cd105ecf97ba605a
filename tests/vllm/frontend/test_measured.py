"""Policy ``measured`` becomes the one that was measured, for exactly the weights measured."""

# pyright: reportMissingImports=false

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.adapters.factory import edit_tensors

from lragent.adapters import AdapterError, read_adapter
from lragent.cache.keys import KeyScope
from lragent.sharing.measured import MeasuredSharing, members_of
from lragent.sharing.policies import Policy
from lragent.vllm.core.adapters import AdapterStore
from lragent.vllm.core.registry import AdapterRegistry
from lragent.vllm.errors import PluginError
from lragent.vllm.measured import resolve_measured
from lragent.vllm.options import parse_options

MEMBERS = ["plan", "act"]


@pytest.fixture
def folders(root: Path, tmp_path: Path) -> dict[str, str]:
    """Two adapters with a verdict for both."""
    made = {name: str(shutil.copytree(root / "own" / name, tmp_path / name)) for name in MEMBERS}
    adapters = {name: read_adapter(path) for name, path in made.items()}
    MeasuredSharing(
        policy=Policy.NEUTRAL, members=members_of(adapters), base_model="m", nll_ratio=1.03,
        exact_points=0.5, lragent="0",
    ).save(adapters)  # fmt: skip
    return made


def option(folders: dict[str, str], **fields: Any) -> dict[str, Any]:
    return {"policy": "measured", "groups": [MEMBERS], "adapters": folders, **fields}


def test_the_policy_is_that_of_the_verdict(folders: dict[str, str]):
    resolved = resolve_measured(option(folders))
    options = parse_options(resolved)
    (group,) = options.groups
    assert options.policy_of(group) is Policy.NEUTRAL
    assert group.members == ("plan", "act")
    assert list(group.measured) == sorted(read_adapter(path).digest for path in folders.values())
    assert resolve_measured(resolved) == resolved
    beside = option(folders, policy="base", groups=[{"members": MEMBERS, "policy": "measured"}])
    assert parse_options(resolve_measured(beside)).policy_of(group) is Policy.NEUTRAL


def test_an_option_without_it_stays(folders: dict[str, str]):
    for plain in ({}, {"policy": "base", "groups": [MEMBERS]}, {"groups": "plan"}, []):
        assert resolve_measured(plain) == plain
    named = {"groups": [{"members": MEMBERS, "policy": "base+lr"}], "policy": "measured"}
    assert parse_options(resolve_measured(named)).groups[0].policy is Policy.BASE_LR


def test_other_weights_are_refused(folders: dict[str, str], root: Path):
    options = parse_options(resolve_measured(option(folders, slots=3)))
    store = AdapterStore(8, lambda adapter: None)
    registry = AdapterRegistry(options, store, KeyScope(*[""] * 6))
    assert registry.load("plan", 1, folders["plan"])
    with pytest.raises(AdapterError, match=r"'act' are not those .* lragent eval --save"):
        registry.load("act", 2, str(root / "own" / "reflect"))
    store.close()
    edit_tensors(Path(folders["act"]), lambda tensors: {n: 2 * t for n, t in tensors.items()})
    with pytest.raises(PluginError, match="weights of adapter 'act' are not those that were"):
        resolve_measured(option(folders))


def test_what_is_missing_is_named(folders: dict[str, str]):
    with pytest.raises(PluginError, match=r'needs the folder of act: .*"adapters"'):
        resolve_measured(option({"plan": folders["plan"]}))
    (Path(folders["act"]) / "lragent-measured.json").unlink()
    with pytest.raises(PluginError, match="measure again with"):
        resolve_measured(option(folders))


def test_an_engine_starts_with_it(folders: dict[str, str], root: Path):
    from vllm.engine.arg_utils import EngineArgs
    from vllm.plugins import load_general_plugins

    load_general_plugins()
    args: dict[str, Any] = {"model": str(root / "llama"), "enable_lora": True, "max_lora_rank": 8}
    config = EngineArgs(
        **args, additional_config={"lragent": option(folders)}
    ).create_engine_config()
    assert config.additional_config["lragent"]["groups"][0]["policy"] == "neutral"
