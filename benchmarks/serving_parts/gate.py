"""Correctness before speed: the plugin under ``isolated`` chooses stock vLLM's tokens.

Stock generates greedily, then is asked for each of its tokens once more with everything before it
as a prompt. How far its own log-probabilities differ between the two is the floor: what rounding
does. The plugin may choose a token that stock has within four floors of the best (two tokens, each
at most two floors off), when it generates and when it is asked, and no other. A position tells
nothing when all of stock's likeliest tokens are that close; at least half of them have to tell.
"""

# pyright: reportMissingImports=false

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

from .adapters import AGENTS
from .workload import draw

TOP = 8
LEAST_TELLING = 0.5
LEAST_FLOOR = 1e-5  # of log-probabilities in fp32, where stock's two ways round alike


@dataclass(frozen=True)
class Choice:
    """A chosen token, its log-probability, its lead over the next one, and those of the best."""

    token: int
    logprob: float
    lead: float
    best: dict[int, float]

    def near(self, distance: float) -> set[int] | None:
        """Tokens within a distance of the best; None where all known ones are."""
        least = max(self.best.values()) - distance
        found = {token for token, logprob in self.best.items() if logprob >= least}
        return None if len(found) == len(self.best) else found


@dataclass(frozen=True)
class Chain:
    """Stock's tokens after one prompt under one adapter.

    Attributes:
        agent: index of the adapter.
        prompt: token ids.
        free: what it chose when it generated.
        asked: what it chose when asked for each token.
    """

    agent: int
    prompt: list[int]
    free: list[Choice]
    asked: list[Choice]


@dataclass(frozen=True)
class Verdict:
    """Whether the tokens agree.

    Attributes:
        passed: the plugin may be measured.
        why: what went wrong; empty when passed.
        positions: compared positions, generated and asked.
        telling: those at which stock's likeliest tokens are not all within rounding.
        equal: those with the same token.
        floor: largest difference of stock's own log-probabilities.
    """

    passed: bool
    why: str
    positions: int
    telling: int
    equal: int
    floor: float


def prompts(vocab: int, length: int) -> list[tuple[int, list[int]]]:
    """Two prompts, each under every adapter."""
    return [
        (agent, draw(vocab, length + 5 * number, "gate", number))
        for number in range(2)
        for agent in range(len(AGENTS))
    ]


def generate(engine: Any, asks: Sequence[tuple[int, Sequence[int]]], tokens: int) -> list[Any]:
    """Greedy choices of a `VllmEngine` after each prompt; nothing is taken from the cache."""
    from vllm import SamplingParams

    params = SamplingParams(
        temperature=0, max_tokens=tokens, ignore_eos=True, detokenize=False, logprobs=TOP
    )
    engine.forget()
    outputs = engine.llm.generate(
        [
            {"prompt_token_ids": list(prompt), "cache_salt": f"gate-{number}"}
            for number, (_, prompt) in enumerate(asks)
        ],
        params,
        lora_request=[engine.lora(agent) for agent, _ in asks],
        use_tqdm=False,
    )
    return [choices_of(output.outputs[0]) for output in outputs]


def choices_of(output: Any) -> list[Choice]:
    """What vLLM's output of a greedy request with log-probabilities says of each token."""
    found = []
    for token, row in zip(output.token_ids, output.logprobs, strict=True):
        best = {int(t): float(entry.logprob) for t, entry in row.items()}
        first, second = sorted(best.values(), reverse=True)[:2]
        found.append(Choice(int(token), best[int(token)], first - second, best))
    return found


def make_chains(engine: Any, vocab: int, length: int, tokens: int) -> list[Chain]:
    """What stock says."""
    asks = prompts(vocab, length)
    free = generate(engine, asks, tokens)
    asked = ask_again(
        engine, [(a, p, [c.token for c in f]) for (a, p), f in zip(asks, free, strict=True)]
    )
    return [
        Chain(agent, prompt, f, q) for (agent, prompt), f, q in zip(asks, free, asked, strict=True)
    ]


def ask_again(
    engine: Any, chains: Sequence[tuple[int, Sequence[int], Sequence[int]]]
) -> list[list[Choice]]:
    """Choices for each token of each chain (agent, prompt, tokens), given all before it."""
    asks = [
        (agent, [*prompt, *tokens[:end]])
        for agent, prompt, tokens in chains
        for end in range(len(tokens))
    ]
    flat = iter(generate(engine, asks, 1))
    return [[next(flat)[0] for _ in tokens] for _, _, tokens in chains]


def answer(engine: Any, chains: Sequence[Chain]) -> tuple[list[list[int]], list[list[int]]]:
    """The plugin's tokens: generated, and asked for after stock's."""
    asks = [(chain.agent, chain.prompt) for chain in chains]
    free = generate(engine, asks, len(chains[0].free))
    asked = ask_again(
        engine, [(chain.agent, chain.prompt, [c.token for c in chain.free]) for chain in chains]
    )
    return [[c.token for c in row] for row in free], [[c.token for c in row] for row in asked]


def judge(
    chains: Sequence[Chain], free: Sequence[Sequence[int]], asked: Sequence[Sequence[int]]
) -> Verdict:
    """Compare the plugin's tokens with stock's chains.

    A generated chain is compared as far as both had the same tokens before.
    """
    differences = (
        abs(generated.logprob - again.best.get(generated.token, min(again.best.values())))
        for chain in chains
        for generated, again in zip(chain.free, chain.asked, strict=True)
    )
    floor = max(LEAST_FLOOR, *differences)
    positions = telling = equal = 0
    wrong: list[str] = []
    for chain, mine, given in zip(chains, free, asked, strict=True):
        for kind, tokens, choices in (("free", mine, chain.free), ("asked", given, chain.asked)):
            for place, (token, choice) in enumerate(zip(tokens, choices, strict=True)):
                positions += 1
                near = choice.near(4 * floor)
                telling += near is not None
                equal += token == choice.token
                if token == choice.token:
                    continue
                if near is not None and token not in near:
                    wrong.append(f"{AGENTS[chain.agent]}, {kind}, token {place}")
                if kind == "free":
                    break
    why = ""
    if wrong:
        places = "; ".join(wrong[:5])
        why = f"tokens that rounding does not explain at {len(wrong)} positions: {places}"
    elif telling < LEAST_TELLING * positions:
        why = f"only {telling} of {positions} positions tell anything (floor {floor:.2g})"
    elif not _adapters_matter(chains):
        why = "stock gives the same tokens under all adapters, so equal tokens show nothing"
    return Verdict(not why, why, positions, telling, equal, floor)


def _adapters_matter(chains: Sequence[Chain]) -> bool:
    return any(
        a.prompt == b.prompt and [c.token for c in a.free] != [c.token for c in b.free]
        for a, b in combinations(chains, 2)
    )


def to_json(chains: Sequence[Chain]) -> list[dict[str, Any]]:
    """Chains as plain data."""
    return [asdict(chain) for chain in chains]


def choice_from_json(data: dict[str, Any]) -> Choice:
    """A choice from plain data."""
    best = {int(token): value for token, value in data["best"].items()}
    return Choice(data["token"], data["logprob"], data["lead"], best)


def from_json(data: Sequence[dict[str, Any]]) -> list[Chain]:
    """Chains from plain data."""
    return [
        Chain(
            row["agent"],
            row["prompt"],
            *(
                [choice_from_json(c) for c in row[kind]]
                for kind in ("free", "asked")
            ),
        )
        for row in data
    ]  # fmt: skip
