from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tests.adapters.factory import edit_config, tiny_llama
from typer.testing import CliRunner

from lragent.cache.layout import PageLayout
from lragent.cli import environment
from lragent.cli.main import app
from lragent.training import write_sidecar

runner = CliRunner(env={"COLUMNS": "100"})


@pytest.fixture
def command(tiny_model: Path, adapters_dir: Path) -> list[str]:
    named = [f"--adapter={name}={adapters_dir / name}" for name in ("plan", "act", "reflect")]
    return ["check", "--model", str(tiny_model), "--context", "160", *named]


def test_environment() -> None:
    result = runner.invoke(app, ["check", "--json"])
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["packages"]["torch"]
    assert found["vllm"] == {"version": None, "problems": []}
    assert "sharing" not in found
    assert "vLLM: not in this environment" in runner.invoke(app, ["check"]).stdout


@pytest.mark.parametrize("version", ["0.28.1", "0.34.0rc1"])
def test_a_vllm_that_the_plugin_does_not_know(
    version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "installed", lambda name: version)
    monkeypatch.setenv("VLLM_PLUGINS", "other")
    result = runner.invoke(app, ["check"])
    assert result.exit_code == 1
    assert "the plugin knows vLLM 0.29 to 0.33" in result.stdout
    assert "VLLM_PLUGINS is set and does not name lragent" in result.stdout


def test_a_group_and_its_memory(command: list[str]) -> None:
    result = runner.invoke(app, [*command, "--json"])
    assert result.exit_code == 0, result.stderr
    sharing = json.loads(result.stdout)["sharing"]
    assert (sharing["slots"], sharing["obstacles"]) == (1, {})
    config = tiny_llama().config
    heads = config.num_key_value_heads or config.num_attention_heads
    size = config.hidden_size // config.num_attention_heads
    one = PageLayout(16, heads, size, slots=1, v_rank=4, k_rank=0, itemsize=2)
    pages = 160 // 16
    assert sharing["embedded"]["neutral"] == pages * config.num_hidden_layers * one.page_bytes
    assert sharing["embedded"]["isolated"] == 3 * sharing["embedded"]["base+lr"]
    assert sharing["plugin"]["neutral"] > sharing["embedded"]["neutral"]  # --max-lora-rank 8
    shown = runner.invoke(app, command).stdout
    assert "can form one group; 1 LR slot" in shown
    option = json.loads(shown.partition("--additional-config '")[2].partition("'")[0])
    assert option == {"lragent": {"policy": "base+lr", "groups": [["plan", "act", "reflect"]]}}
    assert "--max-lora-rank 8 --max-loras 3" in shown
    assert "--lora-target-modules q_proj v_proj " in shown
    assert "--cudagraph-capture-sizes 1 2 " in shown


def test_the_policy_that_they_were_trained_for(command: list[str], adapters_dir: Path) -> None:
    write_sidecar(adapters_dir / "plan", "group", "plan", "neutral")
    write_sidecar(adapters_dir / "act", "group", "act", "neutral", acting_tokens=[3, 4])
    try:
        two = runner.invoke(app, command[:-1]).stdout
        three = runner.invoke(app, command).stdout
    finally:
        for name in ("plan", "act"):
            (adapters_dir / name / "lragent.json").unlink()
    assert "All were trained for neutral" in two
    assert '"policy": "neutral"' in two
    assert "These act from the prompt's last token on: plan. " in " ".join(two.split())
    assert "Not trained for a policy by `lragent train`: reflect" in three


def test_an_adapter_that_is_refused(command: list[str], tmp_path: Path, adapters_dir: Path) -> None:
    bad = tmp_path / "bad"
    shutil.copytree(adapters_dir / "act", bad)
    edit_config(bad, use_dora=True)
    result = runner.invoke(app, [*command, "--adapter", f"bad={bad}"])
    assert result.exit_code == 1
    assert "bad: " in result.stdout
    assert "use_dora=True" in result.stdout
    assert "plan, act, reflect can form one group" in result.stdout
