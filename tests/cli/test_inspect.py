from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.adapters.factory import edit_config, make_adapter, tiny_llama
from transformers import LlamaForCausalLM
from typer.testing import CliRunner

from lragent.cli.main import app

runner = CliRunner()


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    return tiny_llama()


@pytest.fixture
def folders(tmp_path: Path, model: LlamaForCausalLM) -> list[str]:
    plan = make_adapter(tmp_path / "plan", model)
    act = make_adapter(tmp_path / "act", model, seed=2, share_a_with=plan)
    return [str(plan), str(act)]


def test_tables(folders: list[str]) -> None:
    result = runner.invoke(app, ["inspect", *folders], env={"COLUMNS": "160"})
    assert result.exit_code == 0
    for part in ("plan", "act", "tiny/Llama-Test", "1 LR slot under base+lr", "base+lr 0.50"):
        assert part in result.output


def test_json(folders: list[str]) -> None:
    result = runner.invoke(app, ["inspect", *folders, "--json"])
    assert result.exit_code == 0
    data = json.loads(result.stdout)
    assert [adapter["name"] for adapter in data["adapters"]] == ["plan", "act"]
    assert data["pairs"][0]["shares_slot"] is True
    assert data["refused"] == {}


def test_a_refused_adapter_does_not_hide_the_others(folders: list[str]) -> None:
    edit_config(Path(folders[1]), use_dora=True)
    result = runner.invoke(app, ["inspect", *folders, "--json"])
    assert result.exit_code == 1
    data = json.loads(result.stdout)
    assert [adapter["name"] for adapter in data["adapters"]] == ["plan"]
    assert "use_dora=True" in data["refused"]["act"]
    shown = runner.invoke(app, ["inspect", *folders])
    assert shown.exit_code == 1
    assert "act is refused" in shown.stderr


def test_every_adapter_refused(folders: list[str]) -> None:
    result = runner.invoke(app, ["inspect", *folders, "--max-rank", "2"])
    assert result.exit_code == 1
    assert "limit of 2" in " ".join(result.stderr.split())
    assert result.stdout == ""


def test_folders_of_one_name(tmp_path: Path, model: LlamaForCausalLM) -> None:
    paths = [make_adapter(tmp_path / run / "plan", model, seed=1) for run in ("a", "b")]
    result = runner.invoke(app, ["inspect", *map(str, paths), str(paths[0]), "--json"])
    data = json.loads(result.stdout)
    assert [adapter["name"] for adapter in data["adapters"]] == [str(path) for path in paths]
    assert data["pairs"][0]["same_content"] is True


def test_base_folder(tmp_path: Path, model: LlamaForCausalLM, folders: list[str]) -> None:
    model.save_pretrained(tmp_path / "base")
    tiny_llama(layers=1).save_pretrained(tmp_path / "small")
    fits = runner.invoke(app, ["inspect", *folders, "--base", str(tmp_path / "base")])
    assert fits.exit_code == 0
    small = runner.invoke(app, ["inspect", *folders, "--json", "--base", str(tmp_path / "small")])
    assert small.exit_code == 1
    assert "has no linear layer model.layers.1" in json.loads(small.stdout)["refused"]["plan"]


def test_a_base_model_that_is_none(tmp_path: Path, folders: list[str]) -> None:
    (tmp_path / "empty").mkdir()
    result = runner.invoke(app, ["inspect", *folders, "--base", str(tmp_path / "empty")])
    assert result.exit_code == 1
    assert "no config.json" in " ".join(result.stderr.split())
    (tmp_path / "empty" / "config.json").write_text("{}")
    result = runner.invoke(app, ["inspect", *folders, "--base", str(tmp_path / "empty")])
    assert result.exit_code == 1
    assert "could not be read" in " ".join(result.stderr.split())


def test_sixteen_adapters_in_80_columns(tmp_path: Path, model: LlamaForCausalLM) -> None:
    names = [f"customer-support-agent-{number}" for number in range(16)]
    paths = [make_adapter(tmp_path / name, model, seed=i) for i, name in enumerate(names)]
    result = runner.invoke(app, ["inspect", *map(str, paths)], env={"COLUMNS": "80"})
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert max(map(len, lines)) <= 80
    assert len(lines) < 150
    assert all(name in result.output for name in names)
    assert "16 LR slots" in " ".join(result.output.split())
