"""Settings for vLLM in this process, a tiny model with adapters, and engines on them."""

from __future__ import annotations

import os

# vLLM reads these when it is imported.
os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from pathlib import Path

import pytest
from tests.adapters.factory import make_adapter
from tests.engine.models import tiny_model
from tests.engine.tokenizer import byte_tokenizer

LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model in ``llama``; adapters on one A in ``shared``, ordinary ones in ``own``, and
    ordinary ones of all linear layers in ``keys``."""
    root = tmp_path_factory.mktemp("vllm")
    model = tiny_model()
    model.save_pretrained(root / "llama")
    byte_tokenizer().save_pretrained(root / "llama")
    plan = make_adapter(root / "shared" / "plan", model, rank=4, seed=1)
    make_adapter(root / "shared" / "act", model, rank=4, seed=2, share_a_with=plan)
    make_adapter(root / "shared" / "reflect", model, rank=4, seed=3, alpha=4, share_a_with=plan)
    make_adapter(root / "own" / "plan", model, rank=4, seed=4)
    make_adapter(root / "own" / "act", model, rank=3, seed=5)
    make_adapter(root / "own" / "reflect", model, rank=6, seed=6, use_rslora=True)
    for seed, name in enumerate(("plan", "act", "reflect"), start=7):
        make_adapter(root / "keys" / name, model, rank=seed - 4, seed=seed, targets=LINEAR)
    return root
