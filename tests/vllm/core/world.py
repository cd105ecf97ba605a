"""vLLM's scheduler with the plugin, and a worker whose model is a table of tags."""

# pyright: reportMissingImports=false, reportAttributeAccessIssue=false

from __future__ import annotations

import random
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from tests.vllm.core.memory import Tag, TaggedMemory

from lragent.vllm.core.bindings import ServedBinding
from lragent.vllm.core.turns import acts_from
from lragent.vllm.options import options_of
from lragent.vllm.worker.state import WorkerSizes, WorkerState

PAGE = 16


@dataclass
class _Sequence:
    """What a worker keeps of a request."""

    tokens: list[int]
    blocks: list[int] = field(default_factory=list)
    computed: int = 0


class World:
    """Requests go in, steps are taken one by one, and every row that a step reads is checked.

    With ``ahead``, vLLM's scheduler plans each step before the tokens of the one before are known.
    """

    def __init__(
        self,
        model: Path,
        adapters: Mapping[str, Path],
        option: Any,
        pages: int,
        ahead: bool = False,
        **settings: Any,
    ):
        from vllm.engine.arg_utils import EngineArgs
        from vllm.plugins import load_general_plugins
        from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
        from vllm.v1.core.sched.async_scheduler import AsyncScheduler
        from vllm.v1.core.sched.scheduler import Scheduler
        from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
        from vllm.v1.structured_output import StructuredOutputManager

        from lragent.vllm.worker.pages import page_spec

        load_general_plugins()
        defaults: dict[str, Any] = {
            "enable_lora": True, "max_loras": 4, "max_lora_rank": 8, "dtype": "float32",
            "block_size": PAGE, "max_model_len": 1024, "max_num_seqs": 6,
            "max_num_batched_tokens": 96, "enforce_eager": True,
        }  # fmt: skip
        config = EngineArgs(
            model=str(model), additional_config={"lragent": option}, **(defaults | settings)
        ).create_engine_config()
        config.cache_config.num_gpu_blocks = pages + 1
        spec = FullAttentionSpec(block_size=PAGE, num_kv_heads=2, head_size=8, dtype=torch.float32)
        spec = page_spec(spec, option["slots"], width=8)
        assert spec.page_size_bytes == PAGE * 4 * (32 + 8 * option["slots"])
        self.ahead = ahead
        self.scheduler = (AsyncScheduler if ahead else Scheduler)(
            vllm_config=config,
            kv_cache_config=KVCacheConfig(pages + 1, [], [KVCacheGroupSpec(["layer"], spec)]),
            structured_output_manager=StructuredOutputManager(config),
            block_size=PAGE,
            hash_block_size=PAGE,
            log_stats=True,
        )
        init_none_hash(hash)
        self.core = SimpleNamespace(
            scheduler=self.scheduler,
            mm_receiver_cache=None,
            structured_output_manager=None,
            request_block_hasher=get_request_block_hasher(PAGE, lambda value: _digest(value)),
        )
        options = options_of(config)
        assert options is not None
        self.punica = SimpleNamespace(_sampler_indices=torch.full((256,), -1), lragent_mapping=())
        self.state = WorkerState(options, WorkerSizes(256, 16, 4, 8), torch.float32, "cpu")
        self.state.punica = self.punica
        self.memory = TaggedMemory(PAGE)
        self.adapters = dict(adapters)
        self.ids = {name: i for i, name in enumerate(adapters, start=1)}
        self.bindings: dict[str, ServedBinding] = {}
        self.preempted = 0
        self.queried = self.hit = 0  # tokens, in vLLM's own statistics
        self._requests: dict[str, Any] = {}
        self._running: dict[str, _Sequence] = {}
        self._in_flight: deque[tuple[Any, list[list[int]]]] = deque()
        self._rows: dict[int, str] = {}
        self._count = 0

    @property
    def plugin(self) -> Any:
        return self.scheduler.lragent_core

    def submit(
        self, name: str | None, tokens: Sequence[int], new: int = 1, salt: str | None = None
    ) -> str:
        """Queue a request for ``new`` tokens; returns its id."""
        from vllm import SamplingParams
        from vllm.lora.request import LoRARequest
        from vllm.v1.engine import EngineCoreRequest
        from vllm.v1.engine.core import EngineCore

        self._count += 1
        request_id = f"{name}-{self._count}"
        lora = None
        if name is not None:
            lora = LoRARequest(name, self.ids[name], str(self.adapters[name]))
        params = SamplingParams(max_tokens=new, ignore_eos=True, temperature=0)
        made, _ = EngineCore.preprocess_add_request(
            self.core,
            EngineCoreRequest(
                request_id=request_id, prompt_token_ids=list(tokens), mm_features=None,
                sampling_params=params, pooling_params=None, arrival_time=0.0, lora_request=lora,
                cache_salt=salt, data_parallel_rank=None,
            ),
        )  # fmt: skip
        self.scheduler.add_request(made)
        self.bindings[request_id] = made.lragent_binding
        self._requests[request_id] = made
        return request_id

    def step(self, choice: random.Random | None = None) -> Any:
        """One step of the scheduler and the worker; returns vLLM's scheduler output."""
        before = {r: q.num_preemptions for r, q in self._requests.items()}
        output = self.scheduler.schedule()
        self.preempted += sum(q.num_preemptions > before[r] for r, q in self._requests.items())
        ids = self._take_in(output)
        self._run(ids, output)
        sampled = []
        for request_id in ids:
            sequence = self._running[request_id]
            sequence.computed += output.num_scheduled_tokens[request_id]
            done = sequence.computed == len(sequence.tokens)
            token = choice.randrange(3, 90) if choice else 7
            sampled.append([token] if done else [])
            sequence.tokens += sampled[-1]
        if ids:
            self._in_flight.append((output, sampled))
        unknown = 1 if self.ahead and ids else 0  # steps whose tokens the scheduler waits for
        while len(self._in_flight) > unknown:
            for result in self.update(*self._in_flight.popleft()).values():
                if result.scheduler_stats is not None:
                    self.queried += result.scheduler_stats.prefix_cache_stats.queries
                    self.hit += result.scheduler_stats.prefix_cache_stats.hits
        return output

    def update(self, output: Any, sampled: list[list[int]]) -> Any:
        """Tell the scheduler what the requests of a step sampled; returns vLLM's outputs."""
        from vllm.v1.outputs import ModelRunnerOutput

        ids = list(output.num_scheduled_tokens)
        return self.scheduler.update_from_output(
            output, ModelRunnerOutput(ids, {r: i for i, r in enumerate(ids)}, sampled)
        )

    def finish(self, choice: random.Random | None = None) -> None:
        """Take steps until nothing is left to do."""
        while self.scheduler.has_unfinished_requests():
            self.step(choice)

    def tokens_of(self, request_id: str) -> list[int]:
        return list(self._requests[request_id].all_token_ids)

    def blocks_of(self, request_id: str) -> list[int]:
        return self._running[request_id].blocks

    def _take_in(self, output: Any) -> list[str]:
        for request_id in output.finished_req_ids:
            self._running.pop(request_id, None)
        for new in output.scheduled_new_reqs:
            self._running[new.req_id] = _Sequence(
                list(new.prompt_token_ids), list(new.block_ids[0]), new.num_computed_tokens
            )
        cached = output.scheduled_cached_reqs
        for request_id, blocks, computed in zip(
            cached.req_ids, cached.new_block_ids, cached.num_computed_tokens, strict=True
        ):
            sequence = self._running[request_id]
            sequence.computed = computed
            if request_id in cached.resumed_req_ids:
                sequence.blocks = list(blocks[0])
            elif blocks is not None:
                sequence.blocks += blocks[0]
        return list(output.num_scheduled_tokens)

    def _run(self, ids: list[str], output: Any) -> None:
        message = output.lragent_message
        for load in message.loads:
            self._rows[load.row] = load.digest
        self.state.begin_step(
            type(message)(message.admissions), output.finished_req_ids
        )  # the rows are tags here
        counts = [output.num_scheduled_tokens[r] for r in ids]
        firsts = [self._running[r].computed for r in ids]
        self.state.fill(ids, firsts, counts)
        places = [3 if self.bindings[r].adapter else -1 for r in ids]
        self.punica._sampler_indices[: len(places)] = torch.tensor(places)
        if places != list(self.punica.lragent_mapping):  # as vLLM, which keeps an equal one
            self.punica.lragent_mapping = tuple(places)
        self.state.resolve()
        token = 0
        for request_id, first, count in zip(ids, firsts, counts, strict=True):
            for position in range(first, first + count):
                self._write(request_id, position, token)
                token += 1
        ends = [first + count for first, count in zip(firsts, counts, strict=True)]
        read = list(zip(ids, ends, strict=True))
        split = self.state.take_split(sum(counts))
        if split is not None:
            read = [(ids[i], ends[i] - n) for i, n in zip(split.request, split.behind, strict=True)]
        for (request_id, end), slot in zip(read, self.state.host_slots, strict=True):
            sequence = self._running[request_id]
            for position in range(end):
                base, lr = self._tags(request_id, position)
                self.memory.read(request_id, sequence.blocks, position, base, slot, lr)

    def _write(self, request_id: str, position: int, token: int) -> None:
        binding, blocks = self.bindings[request_id], self._running[request_id].blocks
        base, _ = self._tags(request_id, position)
        if self.state.write_base[token]:
            self.memory.write_base(blocks, position, base)
        rows, slots = self.state.rows[token].tolist(), self.state.slots[token].tolist()
        for row, slot in zip(rows, slots, strict=True):
            if slot < 0:
                continue
            assert row >= 0, "a slot is written without an A"
            if row == 3:
                assert binding.adapter is not None
                digest = binding.adapter.slot_digest
            else:
                digest = self._rows[row - 4]
            self.memory.write_lr(blocks, position, slot, (*base, digest, self._writer(binding)))

    def _tags(self, request_id: str, position: int) -> tuple[Tag, Tag]:
        """What the row of a position should hold: base part, and the slot that is read."""
        binding, request = self.bindings[request_id], self._requests[request_id]
        prefix = _digest(tuple(self._running[request_id].tokens[: position + 1]))
        base = (binding.sharer, request.cache_salt, prefix)
        if binding.base_reads and position >= acts_from(request):
            assert binding.adapter is not None
            base = (*base, binding.adapter.digest, acts_from(request))
        digest = binding.adapter.slot_digest if binding.adapter else None
        return base, (*base, digest, self._writer(binding))

    @staticmethod
    def _writer(binding: ServedBinding) -> str | None:
        """Whose forward pass must have written a slot, where that matters."""
        policy = binding.policy
        if policy.fills_all_slots or not policy.has_slots or binding.adapter is None:
            return None
        return binding.adapter.digest


def _digest(value: Any) -> bytes:
    import hashlib

    return hashlib.sha256(repr(value).encode()).digest()
