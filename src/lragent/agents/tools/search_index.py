"""BM25 over short texts, by the bm25s library."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Any


def fold(text: str) -> str:
    """Lower case without accents."""
    decomposed = unicodedata.normalize("NFKD", text)
    return "".join(c for c in decomposed if not unicodedata.combining(c)).lower()


def _words(texts: list[str]) -> list[list[str]]:
    from bm25s.tokenization import tokenize  # see SearchIndex

    tokens: Any = tokenize(
        [fold(text) for text in texts], stopwords="en", return_ids=False, show_progress=False
    )
    return tokens


class SearchIndex:
    """Ranks a fixed list of texts for a query."""

    def __init__(self, texts: Sequence[str]) -> None:
        # Not imported with this module: where JAX is installed, bm25s starts it, and JAX takes most
        # of a GPU's memory.
        import bm25s

        words = _words(list(texts))
        # bm25s cannot index a collection without a single word.
        self._bm25 = bm25s.BM25() if any(words) else None
        if self._bm25 is not None:
            self._bm25.index(words, show_progress=False)

    def top(self, query: str, count: int) -> list[int]:
        """Indices of at most `count` texts that share a word with `query`, best first."""
        words = _words([query])[0]
        if self._bm25 is None or not words:
            return []
        scores = self._bm25.get_scores(words)
        ranked = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
        return [i for i in ranked[:count] if scores[i] > 0]
