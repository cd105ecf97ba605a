"""The embedded engine's scheduler, cache and groups under a virtual clock, without a model.

python -m tests.soak.simulation SEED REQUESTS    # prints the digest of all that happened
"""

from __future__ import annotations

import hashlib
import heapq
import random
import sys
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from tests.soak.gauges import Gauges

from lragent.cache import CacheClient, CacheManager, KeyScope, Lease
from lragent.cache.sharing_reasons import SeenPrompts
from lragent.engine.scheduler import Scheduled, Scheduler
from lragent.sharing import Binding, Groups, SharingGroup, TokenCounts

PAGE, PAGES, SLOTS = 16, 100, 3
CONVERSATIONS, LONGEST = 8, 240
TENANTS = ("", "", "", "", "red", "blue")
GROUPS = {"base+lr": ("a", "b", "c"), "neutral": ("d", "e"), "base": ("f", "g")}
TALKS = [*GROUPS.values(), ("alone", None)]  # who takes turns in a conversation
NAMES = (*(name for members in GROUPS.values() for name in members), "alone")
SCOPE = KeyScope("model", "float32", "layout", "", "", "")


@dataclass(frozen=True)
class Weights:
    """An adapter without tensors; of two versions, of which the second has another A."""

    digest: str
    slot_digest: str
    is_alora: bool = False
    acting_tokens: tuple[int, ...] | None = None


@dataclass(eq=False)
class Asked:
    """What the scheduler knows of a request."""

    id: int
    rank: tuple[int, int]
    binding: Binding[Weights]
    client: CacheClient
    tokens: list[int]
    shareable_tokens: int | None
    until: int
    conversation: int
    computed: int = 0
    lease: Lease | None = None
    ahead: Any = None
    counted: bool = field(default=False)


class Simulation:
    """Requests arrive, steps take time, adapters are reloaded, callers lose patience.

    All chance comes from ``seed``; time is a number. ``digest`` covers each step's time, tokens and
    pages.
    """

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.cache = CacheManager(PAGES, PAGE, 1000, 100, slots=SLOTS)
        self.scheduler: Any = Scheduler(self.cache, max_num_batched_tokens=1024, max_num_seqs=24)
        self.cache._seen = SeenPrompts(max_prompts=64)  # or it would take long to fill
        self.version = dict.fromkeys(NAMES, 0)
        declared = [SharingGroup(p, m, p, p == "neutral") for p, m in GROUPS.items()]
        self.groups: Groups[Weights] = Groups(
            declared, {name: self._weights(name) for name in NAMES}, SLOTS, "{}"
        )
        self.counts = TokenCounts()
        self.running: dict[int, Asked] = {}
        self.conversations: list[list[int]] = [[] for _ in range(CONVERSATIONS)]
        self.now = self.next_arrival = 0.0
        self.cancels: list[tuple[float, int]] = []
        self.cancelled = self.burst = 0
        self._digest = hashlib.sha256()
        self._ids = count()

    @property
    def digest(self) -> str:
        return self._digest.hexdigest()

    def run(self, requests: int, samples: int = 40) -> Gauges:
        """Serve that many requests, and drain."""
        every = max(1, requests // samples)
        with Gauges() as gauges:
            for number in range(requests):
                self._arrive()
                if number % every == 0:
                    self._drain()
                    gauges.take(self._sizes())
                while self.now < self.next_arrival and self.running:
                    self._step()
        self._drain()
        self.cache.check_integrity()
        assert self.cache.stats().pages_leased == 0
        return gauges

    def _drain(self) -> None:
        while self.running:
            self._step()

    def _sizes(self) -> dict[str, float]:
        return {
            "pages": self.cache.used_pages,
            "series": len(self.counts.not_shared),
            "entries": len(self.cache._index) + len(self.groups._group_of),
        }

    def _arrive(self) -> None:
        chance = self.chance
        self.now = max(self.now, self.next_arrival)
        if self.burst == 0 and chance.random() < 0.01:
            self.burst = 40  # come at once
        self.burst = max(0, self.burst - 1)
        self.next_arrival = self.now + (0.0 if self.burst else chance.expovariate(150))
        if chance.random() < 0.01:
            self._reload(chance.choice(NAMES))
        place = chance.randrange(CONVERSATIONS)
        text = self.conversations[place]
        if len(text) > LONGEST:
            text = self.conversations[place] = []
        prompt = [*text, *chance.choices(range(1000), k=chance.randint(1, 40))]
        name = chance.choice(TALKS[place % len(TALKS)])
        binding = self._bind(name)
        client = binding.client(KeyScope(**{**vars(SCOPE), "tenant": chance.choice(TENANTS)}))
        number = next(self._ids)
        asked = Asked(
            number, (chance.choice((0, 0, 0, 1)), number), binding, client, prompt,
            binding.context_tokens(prompt) if binding.base_reads else None,
            len(prompt) + chance.randint(1, 16), place,
        )  # fmt: skip
        self.running[asked.id] = asked
        self.counts.arrived(len(prompt))
        self.scheduler.add(asked)
        if chance.random() < 0.05:
            heapq.heappush(self.cancels, (self.now + chance.uniform(0, 0.1), asked.id))

    def _step(self) -> None:
        while self.cancels and self.cancels[0][0] <= self.now:
            asked = self.running.get(heapq.heappop(self.cancels)[1])
            if asked is not None:
                self.cancelled += 1
                self._end(asked)
        plan: list[Scheduled] = self.scheduler.schedule()
        assert plan or not self.running, "requests wait although nothing runs"
        self.now += 0.001 + 0.00002 * sum(item.count for item in plan)
        self._digest.update(repr(self.now).encode())
        for item in plan:
            asked: Any = item.request
            self._digest.update(
                repr((asked.id, item.start, item.count, asked.lease.pages)).encode()
            )
            self._count(asked)
            samples, asked.computed = item.samples, item.start + item.count
            self.cache.commit(asked.lease, asked.tokens, asked.computed)
            if samples:
                asked.tokens.append(self.chance.randrange(1000))
                if len(asked.tokens) >= asked.until:
                    self.conversations[asked.conversation] = asked.tokens
                    self._end(asked)

    def _count(self, asked: Asked) -> None:
        lease = asked.lease
        if lease is not None and not asked.counted:
            asked.counted = True
            computed = lease.computed_tokens
            self.counts.admitted(lease.base_tokens, lease.lr_tokens, computed, lease.not_shared)

    def _end(self, asked: Asked) -> None:
        self.scheduler.remove(asked)
        del self.running[asked.id]
        self._forget({asked.binding.sharer})

    def _reload(self, name: str) -> None:
        before = {self._bind(n).sharer for n in (name, None)}
        self.version[name] = 1 - self.version[name]
        self.groups.put(name, self._weights(name), self.groups.of(name), SLOTS)
        self._forget(before)

    def _forget(self, sharers: set[str]) -> None:
        for sharer in sharers - {self._bind(name).sharer for name in (*NAMES, None)}:
            self.cache.forget(sharer)

    def _bind(self, name: str | None) -> Binding[Weights]:
        if name is None:
            return self.groups.bind_base_model()
        return self.groups.bind(name, self._weights(name))

    def _weights(self, name: str) -> Weights:
        version = self.version[name]
        return Weights(f"{name}@{version}", f"A of {name}@{version}")


if __name__ == "__main__":
    simulation = Simulation(int(sys.argv[1]))
    simulation.run(int(sys.argv[2]))
    print(simulation.digest)
