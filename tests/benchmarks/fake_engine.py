"""An engine with a clock of its own: every step takes as long and gives each request a token."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.serving.drive import Ask, Progress


class FakeEngine:
    """Prefills ``prefill`` tokens a step, one request after the other; decodes all others."""

    def __init__(self, prefill: int = 100, seconds: float = 1.0):
        self.now = 0.0
        self.seconds = seconds
        self.prefill = prefill
        self.asks: dict[str, Ask] = {}
        self.log: list[Ask] = []
        self.left: dict[str, int] = {}
        self.made: dict[str, int] = {}
        self.aborted: list[str] = []
        self.used: list[str] = []

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += max(seconds, 1e-6)  # less would be lost in rounding

    def submit(self, key: str, ask: Ask) -> None:
        self.asks[key] = ask
        self.log.append(ask)
        self.left[key] = len(ask.prompt)
        self.made[key] = 0

    def step(self) -> list[Progress]:
        self.now += self.seconds
        progress = []
        budget = self.prefill
        for key in list(self.asks):
            done = min(budget, self.left[key])
            budget -= done
            self.left[key] -= done
            if self.left[key]:
                continue
            self.made[key] += 1
            finished = self.made[key] == self.asks[key].new_tokens
            progress.append(Progress(key, [1000 + self.made[key]], finished))
            if finished:
                del self.asks[key]
        return progress

    def abort(self, keys: Sequence[str]) -> None:
        self.aborted += keys
        for key in keys:
            del self.asks[key]

    def use(self, policy: str) -> None:
        assert not self.asks
        self.used.append(policy)

    def forget(self) -> None:
        assert not self.asks

    def kv_bytes(self) -> int:
        return 7
