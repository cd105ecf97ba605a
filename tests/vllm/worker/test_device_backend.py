"""The backend for GPUs in Triton's interpreter: its host side, and the kernels' results, on a CPU.

This is no run on a GPU: no stream, no graph, no compiled kernel.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.engine.models import prompt_of
from tests.vllm.serving import Ask, Embedded, folders, search_path

CODE = """
import json, sys
from dataclasses import replace
from pathlib import Path
import torch
from tests.vllm.serving import Ask, Served, folders, sharing
from lragent.vllm.worker import attention_gpu, backends, ops

builds = []

class Builder(attention_gpu.LRDeviceMetadataBuilder):
    def build(self, common_prefix_len, common_attn_metadata, fast_build=False):
        found = super().build(common_prefix_len, common_attn_metadata, fast_build)
        builds.append((self, common_attn_metadata, found))
        return found

class Backend(attention_gpu.LRDeviceBackend):
    @staticmethod
    def get_builder_cls():
        return Builder

prepared, prepare = [], attention_gpu.prepare_step

def counted(*args):
    prepared.append(prepare(*args))
    return prepared[-1]

attention_gpu.prepare_step = counted
backends.backend_for = lambda config, options: backends.sized_backend(
    Backend, options.num_slots, options.slot_width(config.lora_config.max_lora_rank),
    "CPU_ATTN")
root, policy = Path(sys.argv[1]), sys.argv[2]
kind = sys.argv[4]
adapters = folders(root, kind)
option = sharing(policy, adapters, key_lora=kind == "keys")
with Served(root / "llama", adapters, option) as served:
    impl = served.core.model_executor.driver_worker.worker.model_runner.model.model.layers[0]
    assert type(impl.self_attn.attn.impl) is attention_gpu.LRDeviceImpl
    found = []
    for batch in json.loads(sys.argv[3]):
        answers = served.ask(*[Ask(name, prompt) for name, prompt in batch], tokens=3)
        found.append([list(a.tokens) for a in answers])
    assert len(served.core.model_executor.driver_worker.worker.model_runner.model.model.layers) > 1
    assert len(prepared) == len(builds), "a step is worked out once, for all layers"
    batches = [b for _, _, m in builds for b in [m.batch]]
    assert len({b.lr_slot.data_ptr() for b in batches}) == 1, "addresses change"
    assert len({b.adapter_index.data_ptr() for b in batches}) == 1, "addresses change"
    split = [b for b in batches if b.whole is not None]
    assert bool(split) == (policy == "neutral"), "steps in which prompts cross into a turn"
    assert all(b.whole.num_sequences < b.num_sequences for b in split)
    attention_layer, state = impl.self_attn.attn, impl.self_attn.attn.impl.state
    sizes, state.sizes = state.sizes, replace(state.sizes, max_tokens=32, max_rows=2)
    attention_layer.impl.vllm_config.model_config.max_model_len = 256
    attention_layer.impl.warm_up(attention_layer, torch.zeros(1, dtype=torch.float32))
    state.sizes = sizes
    builder, common, _ = builds[-1]
    layer, state = impl.self_attn.qkv_proj, impl.self_attn.attn.impl.state
    hidden = torch.randn(7, layer.down.shape[2])
    state.rows[:7] = torch.arange(7, dtype=torch.int32)[:, None] % 3 - 1
    stored = []
    for store in (ops.store_lr_host, ops.store_lr_device):
        state.lr.fill_(7.0)
        store(state.lr, hidden, hidden, layer.down, state.rows)
        stored.append(state.lr.clone())
    assert (stored[1][7:] == 7.0).all(), "rows behind the tokens were written"
    tokens, columns = (state.rows[:7] >= 0).nonzero(as_tuple=True)
    stored = [found[tokens, state.rows[tokens, columns].long()] for found in stored]
    torch.testing.assert_close(*stored, rtol=1e-5, atol=1e-6)
    assert stored[1].abs().amax(-1).min() > 0
    support = builder.get_cudagraph_support(builder.vllm_config, builder.kv_cache_spec).name
    assert support == ("UNIFORM_BATCH" if policy == "neutral" else "ALWAYS")
    captured = builder.build_for_cudagraph_capture(common)
    assert captured.batch.seq_lens.tolist() == [1] * captured.batch.num_sequences
    assert captured.batch.cu_seqlens_q.data_ptr() == common.query_start_loc.data_ptr()
print("FOUND", json.dumps(found), flush=True)
"""


@pytest.mark.parametrize(
    ("policy", "kind"),
    [
        ("base", "own"),
        ("base+lr", "own"),
        ("base+lr", "keys"),
        ("neutral", "own"),
        ("neutral", "keys"),
    ],
)
def test_same_tokens_as_the_embedded_engine(policy: str, kind: str, root: Path, tmp_path: Path):
    context = prompt_of(37)
    batches = [
        [Ask("plan", context)],
        [Ask("act", [*context, 5, 6]), Ask(None, context[:20]), Ask("reflect", [*context, 8])],
        [Ask("plan", [*context, 5, 6, 7]), Ask("act", context[:33]), Ask(None, [*context, 5, 9]),
         Ask("reflect", [*context[:20], 4]), Ask("plan", [*context[:17], 3])],
    ]  # fmt: skip
    script = tmp_path / "device.py"
    script.write_text(CODE)
    done = subprocess.run(
        [sys.executable, str(script), str(root), policy,
         json.dumps([[(a.name, a.prompt) for a in batch] for batch in batches]), kind],
        capture_output=True, text=True, timeout=300, check=False,
        env={**os.environ, "PYTHONPATH": search_path(), "TRITON_INTERPRET": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    [line] = [line for line in done.stdout.splitlines() if line.startswith("FOUND ")]
    with Embedded(folders(root, kind), policy) as embedded:
        expected = [[list(a.tokens) for a in embedded.ask(*b, tokens=3)] for b in batches]
    assert json.loads(line.removeprefix("FOUND ")) == expected
