"""The comparison of tokens passes what rounding explains and nothing else."""

from __future__ import annotations

import json
from dataclasses import replace

from benchmarks.serving_parts.gate import Chain, Choice, from_json, judge, to_json


def choice(token: int, lead: float = 1.0, logprob: float = -1.0) -> Choice:
    return Choice(token, logprob, lead, {token: logprob, token + 50: logprob - lead})


def chain(agent: int, tokens: list[int], noise: float = 0.01, lead: float = 1.0) -> Chain:
    free = [choice(token, lead) for token in tokens]
    asked = [choice(token, lead, -1.0 + noise) for token in tokens]
    return Chain(agent, [1, 2, 3], free, asked)


CHAINS = [chain(0, [4, 5, 6, 7]), chain(1, [8, 9, 10, 11])]
TOKENS = [[4, 5, 6, 7], [8, 9, 10, 11]]


def test_equal_tokens_pass():
    verdict = judge(CHAINS, TOKENS, TOKENS)
    assert verdict.passed
    assert (verdict.positions, verdict.telling, verdict.equal) == (16, 16, 16)
    assert abs(verdict.floor - 0.01) < 1e-9


def test_another_token_that_rounding_does_not_explain_fails():
    wrong = [[4, 5, 60, 7], TOKENS[1]]
    for free, asked in ((wrong, TOKENS), (TOKENS, wrong)):
        verdict = judge(CHAINS, free, asked)
        assert not verdict.passed
        assert "plan" in verdict.why
        assert "token 2" in verdict.why


def test_another_token_where_rounding_decides_passes_and_ends_the_generated_chain():
    first = CHAINS[0]
    unclear = replace(first, free=[first.free[0], choice(5, lead=0.02), *first.free[2:]])
    verdict = judge([unclear, CHAINS[1]], [[4, 55, 99, 99], TOKENS[1]], TOKENS)
    assert verdict.passed
    assert verdict.positions == 14  # after it the two contexts differ
    assert verdict.equal == 13


def test_one_of_two_close_tokens_passes_and_a_third_fails():
    first = CHAINS[0]
    close = Choice(5, -1.0, 0.02, {5: -1.0, 55: -1.02, 70: -3.0})
    chains = [replace(first, asked=[first.asked[0], close, *first.asked[2:]]), CHAINS[1]]
    for token, passed in ((5, True), (55, True), (70, False), (99, False)):
        verdict = judge(chains, TOKENS, [[4, token, 6, 7], TOKENS[1]])
        assert verdict.passed == passed, token


def test_little_to_compare_fails():
    blurred = [chain(0, [4, 5], noise=0.5), chain(1, [8, 9], noise=0.5)]
    verdict = judge(blurred, [[4, 5], [8, 9]], [[4, 5], [8, 9]])
    assert not verdict.passed
    assert "0 of 8 positions tell" in verdict.why


def test_adapters_without_effect_fail():
    same = [chain(0, [4, 5]), chain(1, [4, 5])]
    verdict = judge(same, [[4, 5]] * 2, [[4, 5]] * 2)
    assert not verdict.passed
    assert "under all adapters" in verdict.why


def test_chains_survive_the_way_between_processes():
    assert from_json(json.loads(json.dumps(to_json(CHAINS)))) == CHAINS
