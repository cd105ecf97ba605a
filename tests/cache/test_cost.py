"""The hot path: what one decoded token and one long prompt cost, counted, not timed."""

from __future__ import annotations

import subprocess
import sys

import pytest
from tests.cache.helpers import PAGE, client, make_manager, run

from lragent.cache import manager as manager_module
from lragent.cache.keys import pack_tokens


def test_decoding_hashes_only_pages_that_become_full(monkeypatch: pytest.MonkeyPatch) -> None:
    manager = make_manager(64)
    tokens = list(range(8 * PAGE))
    lease = run(manager, client(), tokens)
    packed: list[int] = []

    def counting(page: list[int]) -> bytes:
        packed.append(len(page))
        return pack_tokens(page)

    monkeypatch.setattr(manager_module, "pack_tokens", counting)
    for new in range(3 * PAGE):
        tokens.append(new)
        manager.extend(lease, len(tokens))
        manager.commit(lease, tokens, len(tokens))
    assert packed == [PAGE] * 3


def test_importing_the_cache_is_light() -> None:
    code = (
        "import sys, lragent.cache; "
        "print([m for m in ('torch', 'transformers', 'vllm') if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"
