"""`lragent bench` tells a vLLM server that shares from one that does not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.adapters.factory import make_adapter
from tests.engine.tokenizer import byte_tokenizer
from tests.vllm.server_process import serve
from transformers import LlamaConfig, LlamaForCausalLM
from typer.testing import CliRunner

from lragent.cli.main import app

CONTEXT = 1500


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Path]]:
    """Large enough that a context of that length costs more than a call."""
    root = tmp_path_factory.mktemp("bench")
    config = LlamaConfig(
        vocab_size=512, hidden_size=512, intermediate_size=1024, num_hidden_layers=4,
        num_attention_heads=8, num_key_value_heads=2, max_position_embeddings=4096,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    model.save_pretrained(root / "model")
    byte_tokenizer().save_pretrained(root / "model")
    plan = make_adapter(root / "plan", model, rank=4, seed=1)
    act = make_adapter(root / "act", model, rank=4, seed=2, share_a_with=plan)
    return root / "model", {"plan": plan, "act": act}


@pytest.mark.parametrize("policy", [None, "neutral"], ids=["stock", "neutral"])
def test_the_verdict(
    policy: str | None, served: tuple[Path, dict[str, Path]], tmp_path: Path
) -> None:
    model, adapters = served
    # vLLM's own attention for CPUs takes no smaller blocks.
    options = ["--max-model-len", "4096", "--block-size", "32"]
    options += ["--kv-cache-memory-bytes", str(64 << 20)]
    if policy is not None:
        option = {"policy": policy, "groups": [list(adapters)], "allow_other_base": True}
        options += ["--additional-config", json.dumps({"lragent": option})]
    plugins = "none" if policy is None else "lragent"
    with serve(model, adapters, tmp_path / "log", *options, plugins=plugins) as server:
        asked = ["bench", "--base-url", server.url + "/v1", "--context", str(CONTEXT), "--json"]
        amounts = ["--rounds", "3", "--sessions", "2", "--turns", "4", "--out", str(tmp_path)]
        result = CliRunner().invoke(app, [*asked, *amounts])
    assert result.exit_code == 0, result.stderr
    data = json.loads(result.stdout)
    assert data["verdict"] == ("would-gain" if policy is None else "shares"), data
    for pair in data["pairs"]:
        assert pair["warm_cached"] > 0.9
        assert (pair["hand_over_cached"] > 0.9) == (policy is not None)
    if policy is None:
        assert data["not_shared"] is None
        assert data["workflow"]["cached"] < data["single"]["cached"]
    else:
        assert data["not_shared"]["not_seen"] >= len(data["pairs"]) * 3
        assert data["workflow"]["cached"] == pytest.approx(data["single"]["cached"], abs=0.05)
    assert (tmp_path / "report.html").is_file()
