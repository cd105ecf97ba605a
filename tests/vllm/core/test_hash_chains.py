"""Block hashes of prompts that extend earlier ones are vLLM's, and only what is new is hashed."""

# pyright: reportMissingImports=false, reportAttributeAccessIssue=false

from __future__ import annotations

import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest

from lragent.vllm.core.hash_chains import CHUNK, HashChains
from lragent.vllm.core.request_keys import ATTRIBUTE, lora_keys

pytestmark = pytest.mark.every_version

PAGE = 16
PIECE = PAGE * CHUNK


class Hasher:
    """vLLM's hasher, which counts the blocks that it hashes, and `HashChains` around it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **more: Any):
        from vllm.utils.hashing import sha256
        from vllm.v1.core import kv_cache_utils

        def count(value: Any) -> bytes:
            self.hashed += 1
            return sha256(value)

        kv_cache_utils.init_none_hash(sha256)
        keys = lora_keys(kv_cache_utils._gen_lora_extra_hash_keys)
        monkeypatch.setattr(kv_cache_utils, "_gen_lora_extra_hash_keys", keys)
        self.hashed = 0
        self.stock = kv_cache_utils.get_request_block_hasher(PAGE, count)
        self.chains = HashChains(self.stock, PAGE, **more)

    def request(self, hasher: Any, tokens: Sequence[int], key: str, salt: str | None) -> Any:
        from vllm import SamplingParams
        from vllm.v1.request import Request

        def bound(request: Any) -> Any:
            setattr(request, ATTRIBUTE, SimpleNamespace(keys=[key] if key else []))
            return hasher(request)

        params = SamplingParams(max_tokens=64)
        return Request("r", list(tokens), params, None, cache_salt=salt, block_hasher=bound)

    def check(self, tokens: Sequence[int], key: str = "", salt: str | None = None) -> int:
        """Compare with vLLM's hashes; returns how many blocks were hashed."""
        before = self.hashed
        found = self.request(self.chains.hashes, tokens, key, salt)
        new = self.hashed - before
        expected = self.request(self.stock, tokens, key, salt)
        assert found.block_hashes == expected.block_hashes
        assert len(found.block_hashes) == len(tokens) // PAGE
        for request in (found, expected):  # and those of tokens that are generated
            request.append_output_token_ids(list(range(PAGE)))
        assert found.block_hashes == expected.block_hashes
        return new


@pytest.fixture
def hasher(monkeypatch: pytest.MonkeyPatch) -> Hasher:
    return Hasher(monkeypatch)


def prompt(tokens: int, seed: int = 0) -> list[int]:
    return random.Random(seed).choices(range(128_000), k=tokens)


def test_a_prompt_that_extends_another_is_hashed_from_there_on(hasher: Hasher):
    first = prompt(4 * PIECE + 5)
    assert hasher.check(first) == 4 * CHUNK
    assert hasher.check(first) == 0
    assert hasher.check(first + prompt(3 * PAGE, 1)) == 3
    assert hasher.check(first[: 2 * PIECE] + prompt(PIECE, 2)) == CHUNK
    assert hasher.check(first[: PIECE - 1]) == CHUNK - 1  # shorter than a chunk
    first[PIECE + 3] += 1
    assert hasher.check(first) == 3 * CHUNK


def test_sharers_and_tenants_have_hashes_of_their_own(hasher: Hasher):
    tokens = prompt(2 * PIECE)
    for key in ("", "group:1", "group:2"):
        for salt in (None, "tenant-1", "tenant-2"):
            assert hasher.check(tokens, key, salt) == 2 * CHUNK
    assert hasher.check(tokens, "group:2", "tenant-1") == 0


def test_old_chunks_make_room(monkeypatch: pytest.MonkeyPatch):
    hasher = Hasher(monkeypatch, most=6)
    one, two = prompt(4 * PIECE, 1), prompt(4 * PIECE, 2)
    hasher.check(one)
    hasher.check(two)
    assert len(hasher.chains) == 6
    assert hasher.check(two) == 0
    assert hasher.check(one) == 2 * CHUNK  # its end is gone, and its beginning is still there


def test_any_prompts_from_many_threads(hasher: Hasher):
    choice = random.Random(3)
    trunks = [prompt(6 * PIECE, seed) for seed in range(3)]
    jobs = [
        (choice.choice(trunks)[: choice.randrange(6 * PIECE)] + prompt(choice.randrange(600), i),
         choice.choice(("", "a", "b")), choice.choice((None, "s")))
        for i in range(60)
    ]  # fmt: skip
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda job: hasher.check(*job), jobs))
    assert len(hasher.chains) > 20
