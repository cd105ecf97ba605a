"""What the engine counts, for each adapter and in all."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from lragent.engine.request_state import RequestState
from lragent.engine.scheduler import Scheduled
from lragent.sharing import TokenCounts


@dataclass
class AdapterStats(TokenCounts):
    """Sums over the requests of one adapter, beside those of `TokenCounts`.

    Attributes:
        finished, cancelled, failed: requests by how they went; a deadline cancels.
        generated_tokens: tokens chosen.
        computed_tokens: tokens whose base part was computed (K and V_base written).
        ttft_s: times to first token, summed.
        first_tokens: requests that got a first token.
        busy_s: share of the engine's step time, by tokens in the step.
    """

    finished: int = 0
    cancelled: int = 0
    failed: int = 0
    generated_tokens: int = 0
    computed_tokens: int = 0
    ttft_s: float = 0.0
    first_tokens: int = 0
    busy_s: float = 0.0

    @property
    def tokens_per_s(self) -> float:
        """Generated tokens by second of engine time spent on this adapter."""
        return self.generated_tokens / self.busy_s if self.busy_s else 0.0

    @property
    def mean_ttft_s(self) -> float | None:
        """Mean time to first token in seconds; None before the first."""
        return self.ttft_s / self.first_tokens if self.first_tokens else None

    def __add__(self, other: AdapterStats) -> AdapterStats:
        merged = {
            name: getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__
        }
        return AdapterStats(**merged)


@dataclass(frozen=True)
class EngineStats:
    """A snapshot of the engine.

    Attributes:
        adapters: sums by name of the adapters that are loaded; the base model's under the empty
            name.
        total: sums of all, those of unloaded adapters too.
        kv_base_bytes: bytes of K and V_base in pages that hold something.
        kv_lr_bytes: bytes of LR slots in those pages.
        kv_lr_valid_bytes: bytes of those slots that are valid.
        kv_isolated_bytes: what the same contents would take if every adapter kept its own pages.
        kv_budget_bytes: bytes of all pages.
        peak_kv_bytes: the most that both came to so far, padding included.
        weight_bytes: the base model's weights.
        adapter_bytes: the stacked adapter weights.
        page_bytes: bytes of a page over all layers.
        pages: counts by state: free, leased, idle.
        found_pages: pages that later requests can find.
        running, waiting: requests now.
        evictions, preemptions, steps: how often each happened.
        groups: policy of each sharing group, and its members with their digests and LR slots.
    """

    adapters: dict[str, AdapterStats]
    total: AdapterStats
    kv_base_bytes: int
    kv_lr_bytes: int
    kv_lr_valid_bytes: int
    kv_isolated_bytes: int
    kv_budget_bytes: int
    peak_kv_bytes: int
    weight_bytes: int
    adapter_bytes: int
    page_bytes: int
    pages: dict[str, int]
    found_pages: int
    running: int
    waiting: int
    evictions: int
    preemptions: int
    steps: int
    groups: list[dict[str, object]]

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON types, with `tokens_per_s` of each sum."""
        adapters = {name: _to_dict(sums) for name, sums in self.adapters.items()}
        plain = {f.name: getattr(self, f.name) for f in fields(self)}
        return plain | {"adapters": adapters, "total": _to_dict(self.total)}


def _to_dict(sums: AdapterStats) -> dict[str, Any]:
    plain = {f.name: getattr(sums, f.name) for f in fields(sums)}
    return plain | {"not_shared": dict(sums.not_shared), "tokens_per_s": sums.tokens_per_s}


class StatsRecorder:
    """Adds up what happens, by adapter name; of all unloaded adapters together, so that ever new
    names do not add up to a leak."""

    def __init__(self) -> None:
        self.by_adapter: dict[str, AdapterStats] = {}
        self.unloaded = AdapterStats()
        self.steps = 0

    def of(self, request: RequestState) -> AdapterStats:
        """The sums of the request's adapter."""
        return self.by_adapter.get(request.binding.name or "", self.unloaded)

    def forget(self, adapter: str) -> None:
        """An adapter was unloaded; its requests may still run."""
        self.unloaded += self.by_adapter.pop(adapter, AdapterStats())

    def submitted(self, request: RequestState) -> None:
        """A request came in, whose adapter is loaded."""
        sums = self.by_adapter.setdefault(request.binding.name or "", AdapterStats())
        sums.arrived(request.prompt_tokens)

    def admitted(self, item: Scheduled) -> None:
        """A request was scheduled for the first time."""
        sums, lease = self.of(item.request), item.request.lease
        assert lease is not None
        lr = lease.lr_tokens if lease.client.needed_mask else None
        sums.admitted(lease.base_tokens, lr, item.start, lease.not_shared)

    def ran(self, plan: list[Scheduled], seconds: float) -> None:
        """A step ran in `seconds`."""
        self.steps += 1
        total = sum(item.count for item in plan)
        for item in plan:
            sums, lease = self.of(item.request), item.request.lease
            assert lease is not None
            new_from = max(item.start, lease.base_tokens)
            sums.computed_tokens += max(0, item.start + item.count - new_from)
            sums.busy_s += seconds * item.count / total

    def first_token(self, request: RequestState, seconds: float) -> None:
        """A request got its first token `seconds` after it came in."""
        sums = self.of(request)
        sums.ttft_s += seconds
        sums.first_tokens += 1

    def ended(self, request: RequestState) -> None:
        """A request ended."""
        sums = self.of(request)
        sums.generated_tokens += len(request.generated)
        if request.finish_reason in ("cancelled", "deadline"):
            sums.cancelled += 1
        elif request.finish_reason == "error":
            sums.failed += 1
        else:
            sums.finished += 1
