"""The embedded engine: requests of several adapters on one model and one cache."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lragent.adapters.checks import check_against_model
from lragent.adapters.hub import adapter_folder
from lragent.adapters.model import Adapter
from lragent.adapters.peft_folder import read_adapter
from lragent.attention import Implementation
from lragent.cache.client import CacheClient
from lragent.cache.keys import KeyScope
from lragent.cache.layout import PageLayout
from lragent.cache.manager import CacheManager, Freed
from lragent.engine.cache_file import CacheFiles
from lragent.engine.calls import Calls
from lragent.engine.core import EngineCore
from lragent.engine.errors import BudgetError, PromptTooLongError
from lragent.engine.families import (
    bytes_of_weights,
    dtype_name,
    eos_ids,
    read_shape,
)
from lragent.engine.grammar import Grammars
from lragent.engine.loader import load_model
from lragent.engine.memory import check_kv_bytes, default_kv_bytes, growth_room, pages_in
from lragent.engine.outbox import Outbox
from lragent.engine.params import SamplingParams
from lragent.engine.prompts import Message, Prompt, PromptEncoder
from lragent.engine.registry import AdapterRegistry
from lragent.engine.renamed import renamed
from lragent.engine.request import Request
from lragent.engine.request_state import RequestState
from lragent.engine.runner import ModelRunner
from lragent.engine.scheduler import Scheduler
from lragent.engine.settings import Sharing, model_name, sharing_groups
from lragent.engine.stats import AdapterStats, EngineStats
from lragent.engine.validation import (
    as_device,
    as_dtype,
    check_adapters,
    check_count,
    check_model,
    check_seconds,
    check_text,
)
from lragent.sharing import Binding, Policy

DEFAULT_RANK = 16
"""Width of the LR slot when an engine starts without adapters, so that some can be loaded."""


class Engine(Calls):
    """Serves one base model and any number of LoRA adapters from one paged cache.

    Args:
        model: hub name, local folder, `smollm2` (the demo's model), or a `(model, tokenizer)` pair
            that the engine then owns.
        adapters: PEFT folders, or names on the Hugging Face hub, by the name that requests use.
        sharing: a policy (`isolated`, `neutral`, `base+lr`, `base`, `full`) for one group of all
            adapters, those that are loaded later too; `measured` for the policy that `lragent eval
            --save` has recommended for exactly these adapters; or the sharing groups themselves.
            Nothing is shared by default.
        page_size: tokens in a page.
        kv_bytes: budget of the cache in bytes; default a quarter of the memory, 4 GiB at most
            (80 % of what is free on a GPU), and no more than `max_num_seqs` of the model's
            longest requests fill.
        dtype: of weights and cache, or its name; default float32 on a CPU, bfloat16 on a GPU.
        device: default the GPU where there is one.
        max_num_batched_tokens: most tokens in one forward pass; longer prompts run in chunks.
        max_num_seqs: most requests that run at once.
        max_waiting: most requests beyond those; more are refused. None lets any number wait.
        background: whether a thread runs the requests, so that they go on while nobody waits. Then
            close the engine when it is not needed any more.
        max_lora_rank: width of an LR slot; default the largest rank among `adapters`.
        lr_slots: slots in a page; default as many as the groups need.
        include_base_model: whether requests without adapter share too, when `sharing` is a policy;
            default only under `neutral`, which changes none of their answers.
        attention: `auto`, `torch`, `triton` or `reference`.
        allow_other_base: accept adapters that name another base model, if their tensors fit.
        debug: prove the cache's books whenever the last request ends, and at close; it looks at
            every page.

    Raises:
        UnsupportedModelError, AdapterError, BudgetError, TypeError, ValueError: each says what to
            do.
    """

    @renamed(max_batch_tokens="max_num_batched_tokens", max_batch_size="max_num_seqs")
    def __init__(
        self,
        model: str | Path | tuple[PreTrainedModel, PreTrainedTokenizerBase | None],
        adapters: Mapping[str, str | Path] | None = None,
        sharing: Sharing = Policy.ISOLATED,
        *,
        page_size: int = 16,
        kv_bytes: int | None = None,
        dtype: torch.dtype | str | None = None,
        device: str | torch.device | None = None,
        max_num_batched_tokens: int = 512,
        max_num_seqs: int = 32,
        max_waiting: int | None = None,
        background: bool = False,
        max_lora_rank: int | None = None,
        lr_slots: int | None = None,
        include_base_model: bool | None = None,
        attention: Implementation = "auto",
        allow_other_base: bool = False,
        debug: bool = False,
    ):
        counts = {
            "page_size": page_size,
            "kv_bytes": kv_bytes,
            "max_num_batched_tokens": max_num_batched_tokens,
            "max_num_seqs": max_num_seqs,
            "max_lora_rank": max_lora_rank,
            "lr_slots": lr_slots,
        }
        for argument, count in counts.items():
            if count is not None:
                check_count(argument, count)
        if max_waiting is not None:
            check_count("max_waiting", max_waiting, least=0)
        check_model(model)
        check_adapters(adapters or {})
        where = as_device(device)
        kind = as_dtype(dtype, where)
        if kv_bytes is not None:
            check_kv_bytes(kv_bytes, where)
        if isinstance(model, tuple):
            loaded, self.tokenizer = model
            loaded = loaded.to(device=where, dtype=kind)  # pyright: ignore[reportCallIssue]
        else:
            loaded, self.tokenizer = load_model(model, dtype=kind, device=where)
        self.shape = read_shape(loaded, model_name(model))
        self._allow_other_base = allow_other_base
        self._max_rank = max_lora_rank or 256
        checked = {n: self._read(n, path) for n, path in (adapters or {}).items()}
        groups = sharing_groups(sharing, include_base_model, checked)
        self._registry = AdapterRegistry(checked, groups)
        slots, v_rank, k_rank = self._registry.needs()
        if not checked:
            slots, v_rank = 1, DEFAULT_RANK
        if max_lora_rank is not None:
            v_rank = max(v_rank, max_lora_rank)
            k_rank = max_lora_rank if k_rank else 0
        self.layout = PageLayout(
            page_size=page_size,
            kv_heads=self.shape.kv_heads,
            head_dim=self.shape.head_dim,
            slots=max(slots, lr_slots or 0),
            v_rank=v_rank,
            k_rank=k_rank,
            itemsize=kind.itemsize,
        )
        longest = -(-self.shape.max_positions // page_size) * self.layout.page_bytes
        most = longest * self.shape.layers * max_num_seqs
        budget = default_kv_bytes(where, most) if kv_bytes is None else kv_bytes
        pages = pages_in(budget, self.layout, self.shape.layers)
        self._cache = CacheManager(
            num_pages=pages,
            page_size=page_size,
            page_bytes=self.layout.page_bytes * self.shape.layers,
            lr_bytes_per_slot=self.layout.lr_slot_bytes * self.shape.layers,
            slots=self.layout.slots,
            growth_room=growth_room(where),
        )
        self._weight_bytes = bytes_of_weights(loaded)
        self._runner = ModelRunner(loaded, self.shape, self.layout, pages, attention)
        scheduler = Scheduler(self._cache, max_num_batched_tokens, max_num_seqs)
        self._core = EngineCore(
            self._registry,
            self.layout,
            self._cache,
            self._runner,
            scheduler,
            debug,
            None if max_waiting is None else max_num_seqs + max_waiting,
        )
        self._files = CacheFiles(self._core, self._cache, self._runner.storage)
        self._scope = KeyScope(
            base_model=self.shape.digest,
            dtype=dtype_name(kind),
            layout=self.layout.describe(),
            tenant="",
            sharer="",
            policy="",
        )
        self._prompts = PromptEncoder(
            self.tokenizer, loaded.config.vocab_size, self.shape.max_positions
        )
        self._eos = eos_ids(loaded, getattr(self.tokenizer, "eos_token_id", None))
        self._grammars = Grammars(self.tokenizer, loaded.config.vocab_size, self._eos)
        self._next_id = 0
        if background:
            self._core.start()

    # ---- requests

    @renamed(params="sampling_params")
    def submit(  # pyright: ignore[reportIncompatibleMethodOverride]  # spells the options out
        self,
        prompt: Prompt,
        sampling_params: SamplingParams | None = None,
        *,
        adapter: str | None = None,
        cache_salt: str = "",
        deadline: float | None = None,
        priority: int = 0,
        forced: Sequence[int] | None = None,
    ) -> Request:
        """Queue a request and return its handle.

        It runs while someone waits for it, or with `Engine(background=True)` at once. A handle
        that nobody holds any more cancels it.

        Args:
            prompt: text, or token ids.
            sampling_params: how to decode; default greedy, 256 tokens.
            adapter: name of a loaded adapter; None for the base model.
            cache_salt: requests with different salts never share a page.
            deadline: seconds from now after which it ends as it is, with the finish reason
                `deadline`; None for never.
            priority: requests of lower numbers go first.
            forced: token ids that the output consists of, whatever the model would choose; the
                log-probabilities that are asked for are the model's. Nothing else of
                `sampling_params` counts. For replaying and for teacher-forced scores.

        Raises:
            UnknownAdapterError, PromptTooLongError, BudgetError, QueueFullError,
            EngineClosedError, TypeError, ValueError.
        """
        # checks again what pydantic's model_copy has not
        params = SamplingParams.model_validate({} if sampling_params is None else sampling_params)
        check_text("cache_salt", cache_salt)
        check_seconds("deadline", deadline)
        if not isinstance(priority, int) or isinstance(priority, bool):
            raise TypeError(f"priority must be a whole number, not {priority!r:.80}")
        if adapter is not None:
            check_text("adapter", adapter)
        self._prompts.check_known(params.stop_token_ids, "stop_token_ids")
        self._prompts.check_known(params.logit_bias or {}, "logit_bias")
        wanted = params.structured_outputs if forced is None else None
        form = None if wanted is None else self._grammars.compile(wanted)
        tokens = self._prompts.encode(prompt)
        if forced is not None:
            forced = self._prompts.check_ids(forced, "forced")
            params = SamplingParams(
                max_tokens=len(forced),
                logprobs=params.logprobs,
                prompt_logprobs=params.prompt_logprobs,
                distributions=params.distributions,
                ignore_eos=True,
            )
        with self._core.exclusive():
            self._core.check_open()
            binding, client = self._client(adapter, cache_salt)
            self._check_length(tokens, params, forced)
            outbox = Outbox()
            states = [
                RequestState(
                    self._next_id + index,
                    tokens,
                    params.of_answer(index),
                    binding,
                    client,
                    outbox=outbox,
                    index=index,
                    forced=forced,
                    form=form and form.copy(),
                    deadline=deadline,
                    priority=priority,
                    tokenizer=self.tokenizer,
                    eos=self._eos,
                    max_positions=self.shape.max_positions,
                    device=self._runner.device,
                )
                for index in range(params.n)
            ]
            self._next_id += params.n
            request = Request(states, outbox, self._core)
            self._core.add(states)
        return request

    def cancel_all(self) -> None:
        """End every request that runs or waits, whoever submitted it."""
        self._core.cancel()

    def render(
        self,
        messages: Sequence[Message],
        continue_final_message: bool = False,
        allow_special_tokens: bool = False,
        tools: Sequence[Mapping[str, Any]] = (),
        cache_salt: str = "",
    ) -> list[int]:
        """The token ids of a conversation in the model's chat template.

        Long messages that come again are tokenised once.

        Args:
            messages: `{"role": …, "content": …}` in order.
            continue_final_message: go on in the last message instead of starting a new one.
            allow_special_tokens: whether a special token in a message's text counts as one. By
                default it is plain text, so that no user and no document can end a turn.
            tools: JSON descriptions of functions, `{"type": "function", "function": …}`. How the
                model calls one, its template says; the answer's text holds the call.
            cache_salt: of the request: how long this takes tells nobody what others sent.
        """
        return self._prompts.render(
            messages, continue_final_message, allow_special_tokens, tools, cache_salt
        )

    # ---- adapters

    @property
    def adapters(self) -> tuple[str, ...]:
        """Names of the loaded adapters."""
        return tuple(self._registry.adapters)

    def load_adapter(
        self, name: str, path: str | Path, *, group: str | None = None, share: bool = True
    ) -> None:
        """Load a PEFT folder, or an adapter from the hub, under a new name.

        Args:
            name: what requests call it.
            path: the folder, or `owner/name` on the hub.
            group: the sharing group that it joins, by name. Default: the group that declares
                `name`, or the one of all adapters when the engine's `sharing` is a policy.
            share: False keeps it out of every group.

        Raises:
            AdapterError: the folder is refused, or its slots do not fit the pages.
            ValueError: the name is taken, or the group unknown.
        """
        self._core.check_open()
        check_adapters({name: path})
        if name in self._registry.adapters:
            raise ValueError(
                f"an adapter named {name!r} is loaded; use reload_adapter to replace it"
            )
        adapter = self._read(name, path)
        self._core.load(name, adapter, self._registry.group_for(name, group, share))

    def reload_adapter(self, name: str, path: str | Path) -> None:
        """Replace the weights under `name`; running requests finish on the old ones.

        Raises:
            UnknownAdapterError: nothing is loaded under that name.
            AdapterError: the folder is refused; the old weights stay.
        """
        self._core.check_open()
        check_adapters({name: path})
        group = self._registry.current_group(name)
        self._core.load(name, self._read(name, path), group)

    def unload_adapter(self, name: str) -> Freed:
        """Take an adapter away; returns the pages and bytes that only it could use.

        Running requests finish on it. In a sharing group the pages stay for the other members.

        Raises:
            UnknownAdapterError: nothing is loaded under that name.
        """
        check_text("an adapter's name", name)
        return self._core.unload(name)

    # ---- the cache of a prompt

    def save_cache(
        self,
        path: str | Path,
        prompt: Prompt,
        *,
        adapter: str | None = None,
        cache_salt: str = "",
    ) -> int:
        """Write the cached pages of a prompt to a safetensors file, computing them if need be.

        Whole pages only; under `neutral` those of the context. The file holds the prompt's token
        ids, from which its text can be read.

        Returns:
            Tokens in the file.

        Raises:
            ValueError: not one page of the prompt is in the cache, because it is too short.
            What `submit` and writing a file raise.
        """
        request = self.submit(
            prompt, SamplingParams(max_tokens=1), adapter=adapter, cache_salt=cache_salt
        )
        request.result()
        find = partial(self._client, adapter, cache_salt)
        return self._files.save(Path(path), request.prompt_ids, find)

    def load_cache(
        self, path: str | Path, *, adapter: str | None = None, cache_salt: str = ""
    ) -> int:
        """Put a file of `save_cache` back, for the same model, adapter or group, and salt.

        Load only files that you trust: keys and values in them are taken as they are.

        Returns:
            Tokens of the prompt that the cache has now.

        Raises:
            CacheFileError: damaged, or saved for something else.
            UnknownAdapterError, BudgetError, EngineClosedError.
        """
        check_text("cache_salt", cache_salt)
        return self._files.load(Path(path), partial(self._client, adapter, cache_salt))

    # ---- the loop

    def step(self) -> bool:
        """Run one forward pass; False when there is nothing to do."""
        return self._core.step()

    def stats(self) -> EngineStats:
        """Counts and bytes as of now."""
        with self._core.exclusive():
            loop = self._core.loop
            by_adapter = {
                name: sums + AdapterStats() for name, sums in loop.recorder.by_adapter.items()
            }
            cache, layers = self._cache.stats(), self.shape.layers
            alone = replace(self.layout, slots=min(1, self.layout.slots))
            return EngineStats(
                adapters=by_adapter,
                total=sum(by_adapter.values(), loop.recorder.unloaded + AdapterStats()),
                kv_base_bytes=cache.base_bytes,
                kv_lr_bytes=cache.lr_bytes,
                kv_lr_valid_bytes=cache.valid_slots * self.layout.lr_slot_bytes * layers,
                kv_isolated_bytes=cache.pages_alone * alone.page_bytes * layers,
                kv_budget_bytes=self._runner.storage.nbytes,
                peak_kv_bytes=loop.peak_pages * cache.page_bytes,
                weight_bytes=self._weight_bytes,
                adapter_bytes=self._runner.bank.nbytes,
                page_bytes=cache.page_bytes,
                pages={
                    "free": cache.pages_free,
                    "leased": cache.pages_leased,
                    "idle": cache.pages_idle,
                },
                found_pages=cache.pages_found,
                running=loop.scheduled,
                waiting=len(loop.running) - loop.scheduled,
                evictions=cache.evictions,
                preemptions=loop.preemptions,
                steps=loop.recorder.steps,
                groups=self._registry.groups(),
            )

    def check_integrity(self) -> None:
        """Prove that no page is lost or held twice, for tests; it looks at every page.

        Raises:
            IntegrityError: with every violated invariant.
        """
        self._core.check_integrity()

    def close(self) -> None:
        """Cancel what runs, end the thread in the background, and refuse further work."""
        self._core.close()

    def __repr__(self) -> str:
        loop, storage = self._core.loop, self._runner.storage
        return (
            f"Engine({self.shape.name!r}, adapters={list(self.adapters)}, "
            f"{storage.num_pages} pages of {self.layout.page_size} tokens, "
            f"{dtype_name(self._runner.dtype)} on {self._runner.device}, "
            f"{len(loop.running)} requests)"
        )

    def __enter__(self) -> Self:
        self._core.check_open()
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "an engine holds a model, its cache and its callers' requests, and can be neither "
            "pickled nor copied; start one in each process"
        )

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # ---- inside

    def _client(self, adapter: str | None, cache_salt: str) -> tuple[Binding[Adapter], CacheClient]:
        binding = self._registry.binding(adapter)
        return binding, binding.client(replace(self._scope, tenant=cache_salt))

    def _read(self, name: str, path: str | Path) -> Adapter:
        adapter = read_adapter(adapter_folder(path), max_rank=self._max_rank)
        check_against_model(adapter, self.shape, allow_other_base=self._allow_other_base)
        return adapter

    def _check_length(
        self, tokens: Sequence[int], params: SamplingParams, forced: Sequence[int] | None
    ) -> None:
        limit = self.shape.max_positions
        if len(tokens) >= limit:
            raise PromptTooLongError(
                f"the prompt has {len(tokens)} tokens and the model's limit is {limit} with the "
                "answer; shorten the prompt"
            )
        if forced is not None and len(tokens) + len(forced) > limit:
            raise PromptTooLongError(
                f"{len(tokens)} prompt tokens and {len(forced)} forced ones exceed the model's "
                f"limit of {limit}; shorten one of them"
            )
        most = min(len(tokens) + params.max_tokens, limit)
        need, have = -(-most // self.layout.page_size), self._runner.storage.num_pages
        if need > have:
            raise BudgetError(
                f"{len(tokens)} prompt tokens and up to {most - len(tokens)} new ones need {need} "
                f"pages and the KV budget holds {have}; lower max_tokens, shorten the prompt, or "
                f"raise kv_bytes to {need * self.layout.page_bytes * self.shape.layers:,}"
            )
