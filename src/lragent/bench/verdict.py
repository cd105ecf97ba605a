"""What the figures say about sharing, in a word and in sentences."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from lragent.bench.result import BenchResult, Pair

MUCH = 0.5
"""Of the prompt or of the time that can be saved: from here on a hand-over counts as shared."""
LEAST_SAVING = 0.2
"""Of a cold prompt's time: when a warm one saves less, there is nothing to gain."""


class Outcome(StrEnum):
    """``shares``: adapters read each other's cache. ``partly``: some pairs do. ``would-gain``: they
    do not, and it would save time. ``no-gain``: they do not, and it would save none.
    """

    SHARES = "shares"
    PARTLY = "partly"
    WOULD_GAIN = "would-gain"
    NO_GAIN = "no-gain"


@dataclass(frozen=True)
class Verdict:
    """The outcome, a sentence on it, and what to do or to know."""

    outcome: Outcome
    sentence: str
    advice: tuple[str, ...]


def is_shared(pair: Pair) -> bool:
    """Whether the reader got the writer's cache: by the server's word, else by the time."""
    if pair.hand_over_cached is not None:
        return pair.hand_over_cached >= MUCH
    saved = pair.cold_s - pair.warm_s
    return _gains(pair) and (pair.cold_s - pair.hand_over_s) / saved >= MUCH


def _gains(pair: Pair) -> bool:
    return pair.cold_s - pair.warm_s >= LEAST_SAVING * pair.cold_s


def judge(result: BenchResult) -> Verdict:
    """The verdict on a result with at least one pair."""
    shared = [pair for pair in result.pairs if is_shared(pair)]
    others = [pair for pair in result.pairs if not is_shared(pair)]
    if not others:
        cold, over = _mean(shared, "cold_s"), _mean(shared, "hand_over_s")
        return Verdict(
            Outcome.SHARES,
            f"These adapters share their cache: a hand-over has its first token after "
            f"{_ms(over)} instead of {_ms(cold)}.",
            _quality(),
        )
    if shared:
        names = ", ".join(f"{pair.writer} to {pair.reader}" for pair in others)
        return Verdict(
            Outcome.PARTLY,
            f"{len(shared)} of {len(result.pairs)} hand-overs share; not {names}.",
            ("Put all of them into one group; `lragent inspect` says what stands in the way.",),
        )
    gaining = [pair for pair in others if _gains(pair)]
    if len(gaining) * 2 <= len(others):
        return Verdict(Outcome.NO_GAIN, *_no_gain(result.pairs))
    over, warm = _mean(others, "hand_over_s"), _mean(others, "warm_s")
    sentence = (
        f"These adapters share nothing. Sharing could bring a hand-over from {_ms(over)} to about "
        f"{_ms(warm)}"
    )
    if result.workflow and result.single:
        ratio = result.single.tokens_per_s / result.workflow.tokens_per_s
        sentence += f", and the workflow to about {ratio:.2f} times its throughput"
    return Verdict(Outcome.WOULD_GAIN, sentence + ".", _quality())


def _no_gain(pairs: tuple[Pair, ...]) -> tuple[str, tuple[str, ...]]:
    cold, warm = _mean(pairs, "cold_s"), _mean(pairs, "warm_s")
    sentence = (
        f"Sharing would gain nothing here: an adapter that reads its own prompt again still needs "
        f"{_ms(warm)} of {_ms(cold)}."
    )
    if all(pair.warm_cached == 0 for pair in pairs):
        return sentence, ("The server caches no prefixes; switch that on first.",)
    return sentence, (
        "Reading contexts of this length costs little on this server. Measure the length that your "
        "agents have, with --context.",
    )


def _quality() -> tuple[str, ...]:
    return ("This says nothing about answers: `lragent eval` measures what sharing does to them.",)


def _mean(pairs: tuple[Pair, ...] | list[Pair], name: str) -> float:
    return sum(getattr(pair, name) for pair in pairs) / len(pairs)


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:,.3g} ms" if seconds < 0.9995 else f"{seconds:,.2f} s"
