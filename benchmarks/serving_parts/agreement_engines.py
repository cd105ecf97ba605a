"""vLLM and the embedded engine as `agreement_program` wants them."""

# pyright: reportMissingImports=false

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .adapters import AGENTS
from .agreement_program import Ask
from .gate import Choice, choices_of

TOP = 20  # as many as vLLM gives without being told otherwise


class Vllm:
    """Stock vLLM, or vLLM with the plugin.

    Args:
        base_apart: ask the base model after the adapters: stock vLLM on a CPU gives requests
            without an adapter another's in a mixed batch.
        others: folders of adapters outside of the group, by number as text.
        arguments: those of `VllmEngine`.
    """

    def __init__(self, base_apart: bool, others: Mapping[str, str], *arguments: Any):
        from vllm.lora.request import LoRARequest

        from .vllm_engine import VllmEngine

        self.engine = VllmEngine(*arguments)
        self.base_apart = base_apart
        # After the numbers of the agents, in groups and outside.
        self._others = {
            int(number): LoRARequest(f"other {number}", 2 * len(AGENTS) + int(number), folder)
            for number, folder in others.items()
        }

    def ask(
        self, asks: Sequence[Ask], tokens: int, salt: str
    ) -> tuple[list[list[Choice]], list[int]]:
        """Greedy choices after prompts that come at once, and each prompt's cached tokens."""
        from vllm import SamplingParams

        if self.base_apart and {a is None for a, _ in asks} == {True, False}:
            return self._in_two(asks, tokens, salt)
        params = SamplingParams(
            temperature=0, max_tokens=tokens, ignore_eos=True, detokenize=False, logprobs=TOP
        )
        outputs = self.engine.llm.generate(
            [{"prompt_token_ids": list(prompt), "cache_salt": salt} for _, prompt in asks],
            params,
            lora_request=[
                self._others[agent] if agent in self._others else self.engine.lora(agent)
                for agent, _ in asks
            ],
            use_tqdm=False,
        )
        return [choices_of(o.outputs[0]) for o in outputs], [o.num_cached_tokens for o in outputs]

    def _in_two(
        self, asks: Sequence[Ask], tokens: int, salt: str
    ) -> tuple[list[list[Choice]], list[int]]:
        order = sorted(range(len(asks)), key=lambda place: asks[place][0] is None)
        adapters = [asks[place] for place in order if asks[place][0] is not None]
        parts = [
            self.ask(part, tokens, salt) for part in (adapters, [a for a in asks if a[0] is None])
        ]
        choices, cached = parts[0][0] + parts[1][0], parts[0][1] + parts[1][1]
        back = sorted(range(len(asks)), key=order.__getitem__)
        return [choices[place] for place in back], [cached[place] for place in back]

    def close(self) -> None:
        """Give the memory back, for the next engine in this process."""
        import torch
        from vllm.distributed import cleanup_dist_env_and_memory
        from vllm.platforms import current_platform

        self.engine.llm.llm_engine.engine_core.shutdown()
        del self.engine
        torch.compiler.reset()
        cleanup_dist_env_and_memory()
        # With its last graph this pool is gone, and torch takes no further graph into it.
        type(current_platform)._global_graph_pool = None

    def facts(self) -> dict[str, Any]:
        """What runs in fact: model runner, graph mode, attention backend, capacity."""
        core = self.engine.llm.llm_engine.engine_core.engine_core
        runner = core.model_executor.driver_worker.worker.model_runner
        config = self.engine.llm.llm_engine.vllm_config
        layers = config.compilation_config.static_forward_context.values()
        backends = {type(layer.impl).__name__ for layer in layers if hasattr(layer, "impl")}
        return {
            **self.engine.facts(),
            "runner": f"{type(runner).__module__}.{type(runner).__name__}",
            "graphs": config.compilation_config.cudagraph_mode.name,
            "attention": sorted(backends),
        }


class Embedded:
    """The embedded engine.

    Args:
        model: folder of the model.
        adapters: folders by agent.
        policy: of one group of all adapters.
        settings: further arguments of `lragent.Engine`; ``dtype`` by its name in torch.
    """

    def __init__(
        self, model: str, adapters: Mapping[str, str], policy: str, settings: Mapping[str, Any]
    ):
        import torch
        from transformers import AutoModelForCausalLM

        from lragent import Engine

        dtype = getattr(torch, settings["dtype"])
        loaded = AutoModelForCausalLM.from_pretrained(model, dtype=dtype).eval()
        self.engine = Engine(
            (loaded, None),
            {agent: adapters[agent] for agent in AGENTS},
            policy,  # pyright: ignore[reportArgumentType]
            allow_other_base=True,
            **{**settings, "dtype": dtype},
        )

    def ask(
        self, asks: Sequence[Ask], tokens: int, salt: str
    ) -> tuple[list[list[Choice]], list[int]]:
        """Greedy choices after prompts that come at once, and each prompt's cached tokens."""
        from lragent import SamplingParams

        params = SamplingParams(max_tokens=tokens, ignore_eos=True, logprobs=TOP)
        requests = [
            self.engine.submit(
                prompt,
                adapter=None if agent is None else AGENTS[agent],
                params=params,
                cache_salt=salt,
            )
            for agent, prompt in asks
        ]
        done = [request.result() for request in requests]
        choices = [[_choice(entry) for entry in answer.logprobs] for answer in done]
        return choices, [answer.cached_tokens for answer in done]


def _choice(entry: Any) -> Choice:
    first, second = sorted(entry.top.values(), reverse=True)[:2]
    return Choice(entry.token_id, entry.logprob, first - second, dict(entry.top))
