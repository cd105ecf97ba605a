"""Without the option nothing changes: in a process of its own, so that no other test interferes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.adapters.factory import make_adapter
from tests.engine.tokenizer import byte_tokenizer
from tests.vllm.serving import search_path
from transformers import LlamaConfig, LlamaForCausalLM

SYMBOLS = """
import json, sys
from vllm.v1.core import kv_cache_utils
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.engine.core import EngineCore
from vllm.v1.worker.gpu_model_runner import GPUModelRunner
from vllm.v1.worker.gpu_input_batch import InputBatch
from vllm.config import VllmConfig
import vllm.lora.utils as lora_utils
from vllm.model_executor.layers.attention import attention
def look():
    return [kv_cache_utils._gen_lora_extra_hash_keys, Scheduler.__init__, Scheduler.schedule,
            EngineCore.preprocess_add_request, EngineCore.add_lora, EngineCore.remove_lora,
            GPUModelRunner.execute_model, InputBatch.make_lora_inputs, VllmConfig.__post_init__,
            lora_utils._all_lora_classes, attention.get_attn_backend]
before = look()
import lragent.vllm, lragent.vllm.plugin
same = [a is b for a, b in zip(before, look())]
lragent.vllm.plugin.register()
changed = [a is not b for a, b in zip(before, look())]
once = look()
lragent.vllm.plugin.register()
print(json.dumps({"same": same, "changed": changed, "twice": look() == once}))
"""

OUTPUTS = """
import json, sys
from tests.vllm.serving import Ask, Served
from tests.engine.models import prompt_of
from pathlib import Path
root = Path(sys.argv[1])
names = ("plan", "act")
option = json.loads(sys.argv[2])
served = Served(root, {n: root / n for n in names}, option, block_size=32)
asks = [Ask("plan", prompt_of(90, 1)), Ask("act", prompt_of(90, 1)), Ask("plan", prompt_of(90, 1))]
found = [[a.tokens, a.cached] for ask in asks for a in served.ask(ask)]
layers = served.core.model_executor.driver_worker.worker.model_runner.model.model.layers
config = served.llm.llm_engine.vllm_config
print(json.dumps({
    "answers": found,
    "attention": type(layers[0].self_attn.attn.impl).__module__,
    "lora": type(layers[0].self_attn.qkv_proj).__module__,
    "plugin": getattr(served.core.scheduler, "lragent_core", None) is None,
    "hash": config.compute_hash(),
}))
"""


def run(code: str, *args: str, **env: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-c", code, *args],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONPATH": search_path(), **env},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


def test_import_is_inert_and_register_acts_once():
    found = run(SYMBOLS, VLLM_PLUGINS="")
    assert all(found["same"])
    assert all(found["changed"])
    assert found["twice"]


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose heads are as wide as vLLM's own attention on CPUs needs them."""
    folder = tmp_path_factory.mktemp("wide")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=96, hidden_size=64, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, head_dim=32, initializer_range=0.15,
        max_position_embeddings=2048, bos_token_id=0, eos_token_id=1, pad_token_id=2,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    for seed, name in enumerate(("plan", "act")):
        make_adapter(folder / name, model, rank=4, seed=seed, targets=("q_proj", "k_proj",
                     "v_proj", "o_proj", "up_proj"))  # fmt: skip
    return folder


def test_outputs_and_compile_key_are_those_of_stock(wide: Path):
    with_plugin = run(OUTPUTS, str(wide), "null", VLLM_PLUGINS="lragent")
    without = run(OUTPUTS, str(wide), "null", VLLM_PLUGINS="")
    assert with_plugin == without
    assert without["attention"].startswith("vllm.")
    assert without["lora"].startswith("vllm.")
    assert without["plugin"]
    option = json.dumps({"allow_other_base": True})
    isolated = run(OUTPUTS, str(wide), option, VLLM_PLUGINS="lragent")
    assert isolated["answers"] == without["answers"]
    assert isolated["attention"].startswith("lragent.")
    assert isolated["lora"].startswith("lragent.")
    assert isolated["hash"] != without["hash"]


@pytest.mark.parametrize("more", [{}, {"slots": 2}, {"policy": "base+lr"}])
def test_the_option_is_part_of_the_compile_key(more: dict[str, Any], root: Path):
    """So a graph that was compiled without the plugin, or for other slots, is never used."""
    from vllm.engine.arg_utils import EngineArgs  # pyright: ignore[reportMissingImports]
    from vllm.plugins import load_general_plugins  # pyright: ignore[reportMissingImports]

    load_general_plugins()

    def key(**extra: Any) -> str:
        args: Any = {"model": str(root / "llama"), "enable_lora": True, "max_lora_rank": 8}
        return EngineArgs(**args, **extra).create_engine_config().compute_hash()

    plain = key()
    with_option = key(additional_config={"lragent": more})
    assert plain != with_option
    assert with_option == key(additional_config={"lragent": dict(more)})
    if more:
        assert with_option != key(additional_config={"lragent": {}})
