"""The latest requests and the cache, as the page shows them."""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from lragent.engine import Engine, Request
from lragent.server.models import ServedModels
from lragent.server.report import report_of

KEPT = 24
"""Requests that are shown."""

_TEXT = 4000
"""Characters of an answer's end that are shown."""

_FRESH_S = 0.2
_FRESH_PAGES_S = 2.0
"""How old a look may be, and the pages of a request that has ended: finding them hashes it all."""


@dataclass
class _Seen:
    request: Request
    came: float
    told: dict[str, Any] = field(default_factory=dict)
    looked_at: float = 0.0


class Watch:
    """Remembers the latest requests. Nothing is computed before somebody looks. Thread-safe."""

    def __init__(self, engine: Engine, models: ServedModels, show_texts: bool):
        self._engine = engine
        self._models = models
        self._show_texts = show_texts
        self._seen: deque[_Seen] = deque(maxlen=KEPT)
        self._lock = threading.Lock()
        self._looked_at = 0.0
        self._last: dict[str, Any] = {}

    def add(self, request: Request) -> None:
        """A request came."""
        self._seen.append(_Seen(request, time.time()))

    def look(self) -> dict[str, Any]:
        """Everything as it is now, in plain JSON types. Blocks while a step runs."""
        with self._lock:
            now = time.monotonic()
            if now - self._looked_at > _FRESH_S:
                stats = self._engine.stats()
                self._last = {
                    "report": report_of(stats, self._models.unloaded),
                    "running": stats.running,
                    "waiting": stats.waiting,
                    "agents": {
                        name or self._models.base: {
                            "requests": sums.requests,
                            "prompt_tokens": sums.prompt_tokens,
                            "reused_tokens": sums.reused_tokens,
                            "ttft_s": sums.mean_ttft_s,
                        }
                        for name, sums in stats.adapters.items()
                    },
                    "page_size": self._engine.layout.page_size,
                    "requests": [self._tell(seen, now) for seen in tuple(self._seen)],
                }
                self._looked_at = time.monotonic()
            return self._last

    def _tell(self, seen: _Seen, now: float) -> dict[str, Any]:
        ended = seen.told.get("finish_reason") is not None
        if ended and now - seen.looked_at < _FRESH_PAGES_S:
            return seen.told
        seen.told = {**(seen.told if ended else self._facts(seen)), "pages": _runs(seen.request)}
        seen.looked_at = now
        return seen.told

    def _facts(self, seen: _Seen) -> dict[str, Any]:
        request = seen.request
        done = request.done  # before the look at the answer, which is whole then
        answer = request.completion()
        return {
            "id": request.id,
            "adapter": request.adapter,
            "came": seen.came,
            "prompt_tokens": answer.prompt_tokens,
            "cached_tokens": request.cached_tokens,
            "generated_tokens": len(answer.token_ids),
            "ttft_s": answer.ttft_s,
            "total_s": answer.total_s,
            "not_shared": answer.not_shared,
            "finish_reason": answer.finish_reason if done else None,
            "text": answer.text[-_TEXT:] if self._show_texts else None,
        }


def _runs(request: Request) -> list[dict[str, Any]]:
    """The request's cached pages, neighbours that are alike together."""
    return [
        {"count": len(list(run)), "users": page.users, "slots": page.slots}
        for page, run in groupby(request.cached_pages())
    ]
