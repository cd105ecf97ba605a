"""vLLM engines in this process, and the embedded engine's answers to the same requests."""

# pyright: reportMissingImports=false, reportAttributeAccessIssue=false

from __future__ import annotations

import functools
import gc
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.engine.models import tiny_model

from lragent import Engine
from lragent import SamplingParams as Sampling
from lragent.agents.demo import demo_text
from lragent.engine.loader import load_model
from lragent.smollm2 import NAME

PAGE = 16
AGENTS = ("plan", "act", "reflect")


@dataclass(frozen=True)
class Ask:
    """One request: an adapter's name (None: the base model), token ids, and a tenant."""

    name: str | None
    prompt: Sequence[int]
    salt: str | None = None


@dataclass(frozen=True)
class Answer:
    """Generated tokens, and prompt tokens that were not computed."""

    tokens: tuple[int, ...]
    cached: int


def search_path() -> str:
    """``PYTHONPATH`` for processes of their own: this checkout, then what this process has."""
    return os.pathsep.join(
        [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    )


def folders(root: Path, kind: str) -> dict[str, Path]:
    return {name: root / kind / name for name in AGENTS}


@functools.cache
def running_text() -> list[int]:
    """SmolLM2's token ids of running text, the project's own demo documents."""
    found = load_model(NAME)[1](demo_text())["input_ids"]
    assert isinstance(found, list)
    return found


def sharing(policy: str, adapters: Mapping[str, Path], **more: Any) -> dict[str, Any]:
    """The plugin's option for one group of all adapters."""
    return {
        "policy": policy,
        "groups": [list(adapters)],
        "adapters": {name: str(path) for name, path in adapters.items()},
        "slots": len(adapters),
        "allow_other_base": True,
        **more,
    }


@functools.cache
def freeze_modules() -> None:
    """For the rest of the process. An engine collects garbage about ten times, and of its three
    seconds to start all but a half went by over the objects of imported modules.
    """
    import vllm.entrypoints.llm
    import vllm.model_executor.models.llama
    import vllm.v1.worker.cpu_worker  # noqa: F401

    gc.collect()
    gc.freeze()
    gc.freeze = gc.unfreeze = lambda: None


class Served:
    """A vLLM engine in this process; a context manager."""

    def __init__(
        self, model: Path | str, adapters: Mapping[str, Path], option: Any, **settings: Any
    ):
        from vllm import LLM

        freeze_modules()
        extra = {} if option is None else {"additional_config": {"lragent": option}}
        defaults: dict[str, Any] = {
            "skip_tokenizer_init": True,
            "enable_lora": True,
            "max_loras": 4,
            "max_lora_rank": 8,
            "dtype": "float32",
            "enforce_eager": True,
            "block_size": PAGE,
            "max_model_len": 1024,
            "max_num_seqs": 8,
            "kv_cache_memory_bytes": 16 << 20,
            "seed": 0,
        }
        self.llm: Any = LLM(str(model), **(defaults | extra | settings))
        self.ids = {name: number for number, name in enumerate(adapters, start=1)}
        self.paths = {name: str(path) for name, path in adapters.items()}

    def __enter__(self) -> Served:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        from vllm.distributed import cleanup_dist_env_and_memory

        self.llm.llm_engine.engine_core.shutdown()
        del self.llm
        gc.collect()
        cleanup_dist_env_and_memory()

    @property
    def core(self) -> Any:
        return self.llm.llm_engine.engine_core.engine_core

    @property
    def plugin(self) -> Any:
        return self.core.scheduler.lragent_core

    def preempted(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """Names of the requests that are preempted from now on, in the order of that."""
        names: list[str] = []
        stock = self.core.scheduler._preempt_request

        def preempt(request: Any, *args: Any, **kwargs: Any) -> None:
            names.append(request.request_id)
            stock(request, *args, **kwargs)

        monkeypatch.setattr(self.core.scheduler, "_preempt_request", preempt)
        return names

    def lora(self, name: str | None, in_place: bool = False) -> Any:
        from vllm.lora.request import LoRARequest

        if name is None:
            return None
        return LoRARequest(name, self.ids[name], self.paths[name], load_inplace=in_place)

    def ask(
        self, *asks: Ask, tokens: int = 8, in_place: bool = False, lora: list[Any] | None = None
    ) -> list[Answer]:
        """Answers to requests that come at the same time."""
        from vllm import SamplingParams

        params = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True, detokenize=False)
        prompts = []
        for ask in asks:
            prompt: dict[str, Any] = {"prompt_token_ids": list(ask.prompt)}
            if ask.salt is not None:
                prompt["cache_salt"] = ask.salt
            prompts.append(prompt)
        requests = lora or [self.lora(ask.name, in_place) for ask in asks]
        outputs = self.llm.generate(prompts, params, lora_request=requests, use_tqdm=False)
        return [Answer(tuple(o.outputs[0].token_ids), o.num_cached_tokens) for o in outputs]

    def reset(self) -> None:
        assert self.llm.reset_prefix_cache()


class Embedded:
    """The embedded engine behind the same interface."""

    def __init__(self, adapters: Mapping[str, Path], policy: str, model: Any = None):
        source = (tiny_model(), None) if model is None else model
        self.engine = Engine(source, dict(adapters), policy, page_size=PAGE)  # type: ignore[arg-type]

    def __enter__(self) -> Embedded:
        return self

    def __exit__(self, *_: object) -> None:
        self.engine.close()

    def ask(self, *asks: Ask, tokens: int = 8) -> list[Answer]:
        params = Sampling(max_tokens=tokens, ignore_eos=True, temperature=0)
        requests = [
            self.engine.submit(
                list(a.prompt), adapter=a.name, sampling_params=params, cache_salt=a.salt or ""
            )
            for a in asks
        ]
        results = [request.result() for request in requests]
        return [Answer(tuple(r.token_ids), r.cached_tokens) for r in results]
