"""vLLM and the embedded engine as `program` wants them."""

# pyright: reportMissingImports=false

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.common.adapters import AGENTS
from benchmarks.serving.engine import VllmEngine
from tests.gpu.agreement.choices import Choice, choices_of
from tests.gpu.agreement.program import Answers, Ask, Step

TOP = 20  # as many as vLLM gives without being told otherwise


class Vllm:
    """Stock vLLM, or vLLM with the plugin.

    Args:
        others: folders of adapters outside of the group, by number as text.
        arguments: those of `VllmEngine`.
    """

    def __init__(self, others: Mapping[str, str], *arguments: Any):
        from vllm.lora.request import LoRARequest

        self.engine = VllmEngine(*arguments)
        # After the numbers of the agents, in groups and outside.
        self._others = {
            int(number): LoRARequest(f"other {number}", 2 * len(AGENTS) + int(number), folder)
            for number, folder in others.items()
        }

    def ask(
        self, asks: Sequence[Ask], tokens: int, salt: str
    ) -> tuple[list[list[Choice]], list[int]]:
        """Greedy choices after prompts that come at once, and each prompt's cached tokens."""
        from vllm import SamplingParams  # pyright: ignore[reportAttributeAccessIssue]

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
        return self._submit(asks, [None] * len(asks), params, salt)

    def follow(self, steps: Sequence[Step], salt: str) -> Answers:
        """Choices for each token of what follows each prompt, whatever the engine would choose."""
        from lragent import SamplingParams

        params = SamplingParams(ignore_eos=True, logprobs=TOP)
        found = [self._submit(step.asks, step.tokens, params, salt) for step in steps]
        return Answers([choices for choices, _ in found], [cached for _, cached in found])

    def _submit(
        self, asks: Sequence[Ask], forced: Sequence[list[int] | None], params: Any, salt: str
    ) -> tuple[list[list[Choice]], list[int]]:
        requests = [
            self.engine.submit(
                prompt,
                adapter=None if agent is None else AGENTS[agent],
                sampling_params=params,
                cache_salt=salt,
                forced=tokens,
            )
            for (agent, prompt), tokens in zip(asks, forced, strict=True)
        ]
        done = [request.result() for request in requests]
        choices = [[_choice(entry) for entry in answer.logprobs] for answer in done]
        return choices, [answer.cached_tokens for answer in done]


def _choice(entry: Any) -> Choice:
    return Choice(entry.token_id, entry.logprob, dict(entry.top))
