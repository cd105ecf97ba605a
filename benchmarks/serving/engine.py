"""A vLLM engine in this process, as `drive` wants it.

The engine core runs in this process (``VLLM_ENABLE_V1_MULTIPROCESSING=0``), for stock and plugin
alike: so its pages can be counted, and no time between processes is measured.
"""

# pyright: reportMissingImports=false

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.common.adapters import ACTING, AGENTS
from benchmarks.serving.drive import Ask, Progress
from benchmarks.serving.policies import (
    HOST,
    TARGETS,
    is_guest,
    kind_of,
    plugin_option,
    reads_page,
    uses_one_adapter,
)
from benchmarks.serving.workload import FIRST_ID

TARGET_MODULES = ("qkv_proj", "q_proj", "v_proj")
"""What the adapters change, by the names of vLLM's merged module and of the adapters' own."""


def knows_targets() -> bool:
    """Whether this vLLM has the option ``--lora-target-modules``."""
    from vllm.engine.arg_utils import EngineArgs

    return "lora_target_modules" in EngineArgs.__dataclass_fields__


class VllmEngine:
    """Stock vLLM, or vLLM with the plugin.

    Args:
        engine: what it is started as; see `policies.engine_of`.
        model: folder of the model.
        adapters: folders by agent.
        settings: arguments of ``vllm.LLM``.
    """

    def __init__(
        self, engine: str, model: str, adapters: Mapping[str, str], settings: Mapping[str, Any]
    ):
        from vllm import LLM
        from vllm.lora.request import LoRARequest
        from vllm.sampling_params import RequestOutputKind, SamplingParams

        option = plugin_option(engine, dict(adapters))
        extra: dict[str, Any] = {}
        if option is not None:
            extra["additional_config"] = {"lragent": option}
        if engine == TARGETS:
            extra["lora_target_modules"] = list(TARGET_MODULES)
        self.llm: Any = LLM(
            model,
            skip_tokenizer_init=True,
            generation_config="vllm",
            enable_lora=True,
            max_loras=len(AGENTS),
            max_cpu_loras=2 * len(AGENTS),
            enable_prefix_caching=True,
            seed=0,
            **settings,
            **extra,
        )
        names = [*AGENTS, *(f"{agent} alone" for agent in AGENTS)]
        requests = [
            LoRARequest(name, number, str(adapters[name.removesuffix(" alone")]))
            for number, name in enumerate(names, start=1)
        ]
        self.loras, alone = requests[: len(AGENTS)], requests[len(AGENTS) :]
        self._guests = alone if kind_of(engine) == HOST else self.loras
        self._policy: str | None = None
        self._params = lambda tokens: SamplingParams(
            temperature=0,
            max_tokens=tokens,
            ignore_eos=True,
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
        )

    def use(self, policy: str) -> None:
        """Serve what follows as a name from `policies` says, its adapters on the device."""
        if policy == self._policy:
            return
        self._policy = policy
        for agent in range(len(AGENTS)):
            self.submit(f"use {agent}", Ask(agent, range(FIRST_ID, FIRST_ID + 8), 1))
        while self.llm.llm_engine.has_unfinished_requests():
            self.llm.llm_engine.step()

    def lora(self, agent: int | None) -> Any:
        """The request's adapter; the first one for all agents where one adapter is to be used."""
        if agent is None:
            return None
        policy = self._policy or ""
        loras = self._guests if is_guest(policy) else self.loras
        return loras[0 if uses_one_adapter(policy) else agent]

    def submit(self, key: str, ask: Ask) -> None:
        """Queue a request."""
        self.llm.llm_engine.add_request(
            key,
            {"prompt_token_ids": self._prompt(ask)},
            self._params(ask.new_tokens),
            lora_request=self.lora(ask.agent),
        )

    def _prompt(self, ask: Ask) -> list[int]:
        """Its tokens; those of a page begin with the acting token where the adapter is to find it.

        The next prompt holds the page without it. Pages of a turn are private, so what it finds in
        the cache is the same.
        """
        prompt = list(ask.prompt)
        if ask.page and reads_page(self._policy or ""):
            prompt[-ask.page] = ACTING
        return prompt

    def step(self) -> list[Progress]:
        """Run one step."""
        return [
            Progress(output.request_id, list(output.outputs[0].token_ids), output.finished)
            for output in self.llm.llm_engine.step()
        ]

    def abort(self, keys: Sequence[str]) -> None:
        """Drop requests."""
        if keys:
            self.llm.llm_engine.abort_request(list(keys))
            while self.llm.llm_engine.has_unfinished_requests():
                self.llm.llm_engine.step()

    def forget(self) -> None:
        """Empty the prefix cache.

        Raises:
            RuntimeError: a request still holds pages.
        """
        for _ in range(10):
            if self.llm.reset_prefix_cache():
                return
            self.llm.llm_engine.step()  # a step may be in flight after the last token
        raise RuntimeError("vLLM does not empty its prefix cache, though no request is left")

    @property
    def _manager(self) -> Any:
        return self.llm.llm_engine.engine_core.engine_core.scheduler.kv_cache_manager

    @property
    def page_bytes(self) -> int:
        """Bytes of one page in all layers."""
        groups = self._manager.kv_cache_config.kv_cache_groups
        return sum(g.kv_cache_spec.page_size_bytes * len(g.layer_names) for g in groups)

    def kv_bytes(self) -> int:
        """Bytes of pages with content, of running requests and cached ones.

        Without `forget` a page with content never becomes empty (it is overwritten in the end), so
        what is there after a run is also the most that there was, but for pages not yet full.
        """
        pages = self._manager.block_pool.blocks
        used = sum(
            not page.is_null and (page.ref_cnt > 0 or page.block_hash is not None) for page in pages
        )
        return used * self.page_bytes

    def facts(self) -> dict[str, Any]:
        """Capacity of this engine."""
        config = self._manager.kv_cache_config
        page = config.kv_cache_groups[0].kv_cache_spec.block_size
        return {
            "kv_tokens": config.num_blocks * page,
            "page_tokens": page,
            "page_bytes": self.page_bytes,
        }
