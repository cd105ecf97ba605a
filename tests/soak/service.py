"""Requests of several adapters and tenants, cancels and reloads, on a tiny model."""

from __future__ import annotations

import random
from pathlib import Path

from tests.adapters.factory import make_adapter
from tests.engine.models import tiny_model
from tests.soak.gauges import Gauges

from lragent import Engine, SamplingParams
from lragent.cache.sharing_reasons import SeenPrompts
from lragent.engine.request import Request
from lragent.sharing import SharingGroup

CONVERSATIONS, LONGEST, AT_ONCE = 12, 90, 24
TOKENS = 32  # of a step, at most: oneDNN keeps what it compiled for each number, up to 1,024 times
NAMES = ("plan", "act", "reflect", "alone", None)
TENANTS = ("", "", "red")


class Service:
    """An engine with groups of three policies, and callers."""

    def __init__(self, root: Path, seed: int) -> None:
        model = tiny_model()
        self.chance = random.Random(seed)
        self.folders = {
            (name, version): make_adapter(root / f"{name}{version}", model, rank=2, seed=number)
            for number, (name, version) in enumerate((n, v) for n in NAMES[:4] for v in (0, 1))
        }
        self.engine = Engine(
            (model, None),
            {str(name): self.folders[name, 0] for name in NAMES[:4]},
            [SharingGroup("n", ["plan", "act"], "neutral", True),
             SharingGroup("l", ["reflect"], "base+lr")],
            kv_bytes=512 << 10, page_size=16, lr_slots=3, max_lora_rank=2, debug=True,
            max_num_batched_tokens=TOKENS, max_num_seqs=8,
        )  # fmt: skip
        self.engine._cache._seen = SeenPrompts(max_prompts=64)  # or it would take long to fill
        self.conversations: list[list[int]] = [[] for _ in range(CONVERSATIONS)]
        self.cancelled = self.reused = 0

    def run(self, requests: int, samples: int = 25) -> Gauges:
        every = requests // samples
        # PyTorch's own caches and the C library still grow a little
        with self.engine, Gauges(memory=24 << 20) as gauges:
            for done in range(0, requests, AT_ONCE):
                if done % every < AT_ONCE:
                    gauges.take(self._sizes())
                if self.chance.random() < 0.2:
                    self._reload()
                self._round(min(AT_ONCE, requests - done))
            stats = self.engine.stats()
            assert stats.total.requests == requests
            assert stats.pages["leased"] == 0
            assert stats.evictions > 0
            assert stats.total.cancelled == self.cancelled
            assert stats.kv_budget_bytes == self._tensor_bytes(), "bytes of the tensors"
        return gauges

    def _round(self, count: int) -> None:
        chance, asked = self.chance, []
        for _ in range(count):
            place = chance.randrange(CONVERSATIONS)
            if len(self.conversations[place]) > LONGEST:
                self.conversations[place] = []
            text = self.conversations[place]
            prompt = [*text, *(chance.randrange(3, 96) for _ in range(chance.randint(1, 12)))]
            request = self.engine.submit(
                prompt,
                adapter=chance.choice(NAMES),
                cache_salt=TENANTS[place % len(TENANTS)],
                sampling_params=SamplingParams(max_tokens=chance.randint(1, 6), ignore_eos=True),
            )
            asked.append((place, prompt, request))
        if chance.random() < 0.5:
            self._reload()
        for place, prompt, request in asked:
            if chance.random() < 0.1:
                self._cancel(request)
                continue
            got = request.result()
            assert got.finish_reason == "length", got.error
            self.reused += got.cached_tokens
            self.conversations[place] = [*prompt, *got.token_ids]

    def _cancel(self, request: Request) -> None:
        """At whatever point it is: before its prompt, in it, or among its tokens."""
        if request.done:
            return
        request.cancel()
        self.cancelled += 1

    def _reload(self) -> None:
        name = str(self.chance.choice(NAMES[:4]))
        folder = self.folders[name, self.chance.randrange(2)]
        if self.chance.random() < 0.3:
            self.engine.unload_adapter(name)
            self.engine.load_adapter(name, folder)
        else:
            self.engine.reload_adapter(name, folder)

    def _tensor_bytes(self) -> int:
        """Bytes of the tensors that hold the pages; these need no padding."""
        views = self.engine._runner.storage.views
        return sum(t.nbytes for v in views for t in (v.k, v.v, v.lr) if t is not None)

    def _sizes(self) -> dict[str, float]:
        stats = self.engine.stats()
        plain = stats.to_dict()
        reasons = sum(len(sums["not_shared"]) for sums in plain["adapters"].values())
        return {
            "pages": stats.pages["leased"] + stats.pages["idle"],
            "series": sum(len(sums) for sums in plain["adapters"].values()) + reasons,
            "entries": len(self.engine._core.loop.running) + stats.adapter_bytes,
        }
