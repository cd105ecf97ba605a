"""Contexts that no server has seen: the bundled documents' sentences in random order."""

from __future__ import annotations

import random

from lragent.agents.demo import demo_text
from lragent.agents.tools.passages import split_sentences
from lragent.bench.server import BenchServer

_SAMPLE_WORDS = 100


class Contexts:
    """Makes texts of about `tokens` tokens, as the tokenizer behind `model` counts them."""

    def __init__(self, server: BenchServer, model: str, tokens: int, seed: int) -> None:
        self._random = random.Random(seed)
        self._sentences = split_sentences(demo_text())
        sample = self._text(_SAMPLE_WORDS)
        counted = server.complete(model, sample, 1).prompt_tokens
        self._words = max(1, round(tokens * _SAMPLE_WORDS / counted))

    def fresh(self) -> str:
        """One more, which begins otherwise than all before it."""
        return self._text(self._words)

    def _text(self, words: int) -> str:
        """Begins with a random number, since servers find what they know from the start on."""
        parts = ["File", str(self._random.getrandbits(64)) + "."]
        while len(parts) < words:
            parts += self._random.choice(self._sentences).split()
        return " ".join(parts[:words])
