"""What was measured, in plain types."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from lragent.bench.server import Call


def cached_share(calls: list[Call], reported: bool) -> float | None:
    """Share of prompt tokens that the server calls cached; None when it does not say.

    Some servers leave the field out where nothing was cached, so `reported` is whether any call of
    the same kind had it.
    """
    if not reported:
        return None
    return sum(call.cached_tokens or 0 for call in calls) / sum(c.prompt_tokens for c in calls)


def reports(calls: list[Call]) -> bool:
    """Whether the server says how many tokens were cached."""
    return any(call.cached_tokens is not None for call in calls)


@dataclass(frozen=True)
class Pair:
    """One adapter takes a context over from another. Median seconds to the first token.

    Attributes:
        writer, reader: who sends the context first, and who takes it over.
        prompt_tokens: of the contexts, in the mean.
        cold_s: the writer on a new context.
        warm_s: the writer once more on the same context.
        hand_over_s: the reader on it.
        warm_cached, hand_over_cached: share of cached prompt tokens; None where the server does
            not say.
    """

    writer: str
    reader: str
    prompt_tokens: int
    cold_s: float
    warm_s: float
    hand_over_s: float
    warm_cached: float | None
    hand_over_cached: float | None

    @classmethod
    def of(
        cls, writer: str, reader: str, cold: list[Call], warm: list[Call], over: list[Call]
    ) -> Pair:
        """Of as many calls of each kind as there were rounds."""
        reported = reports([*cold, *warm, *over])
        return cls(
            writer,
            reader,
            prompt_tokens=round(sum(c.prompt_tokens for c in over) / len(over)),
            cold_s=median(c.ttft_s for c in cold),
            warm_s=median(c.ttft_s for c in warm),
            hand_over_s=median(c.ttft_s for c in over),
            warm_cached=cached_share(warm, reported),
            hand_over_cached=cached_share(over, reported),
        )


@dataclass(frozen=True)
class Workflow:
    """Several sessions at once, each with a context that passes through the agents in turns.

    Attributes:
        agents: who takes turns.
        sessions, turns: how many at once, and turns of each.
        generated_tokens, prompt_tokens: over all calls.
        seconds: from the first call to the end of the last.
        ttft_s: median.
        cached: share of cached prompt tokens; None where the server does not say.
    """

    agents: tuple[str, ...]
    sessions: int
    turns: int
    generated_tokens: int
    prompt_tokens: int
    seconds: float
    ttft_s: float
    cached: float | None

    @property
    def tokens_per_s(self) -> float:
        """Generated tokens a second."""
        return self.generated_tokens / self.seconds


@dataclass(frozen=True)
class BenchResult:
    """All of it.

    Attributes:
        base_url, adapters, seed: what was asked, and the seed of the contexts.
        pairs: each ordered pair of adapters.
        workflow: all adapters in turns.
        single: the same with one adapter in all turns: about what sharing can reach.
        not_shared: requests of this measurement that reused nothing, by lragent's reasons; None
            without lragent in the server.
    """

    base_url: str
    adapters: tuple[str, ...]
    seed: int
    pairs: tuple[Pair, ...]
    workflow: Workflow | None = None
    single: Workflow | None = None
    not_shared: dict[str, int] | None = field(default=None)

    def to_json(self) -> dict[str, Any]:
        """In dicts, lists, strings and numbers."""
        plain = asdict(self)
        for name in ("workflow", "single"):
            if (flow := getattr(self, name)) is not None:
                plain[name]["tokens_per_s"] = flow.tokens_per_s
        return plain
