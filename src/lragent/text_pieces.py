"""Token ids of texts that come again: a conversation's long parts are tokenised once.

A tokenizer cuts text at its special tokens before anything else, so the token ids of a conversation
are those of its parts, one after the other. Another agent's prompt has the same long parts, and
tokenising 32,768 tokens takes longer than the hand-over of their KV cache.
"""

from __future__ import annotations

import re
import threading
from array import array
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, permutations
from typing import Any

LONG = 2000
"""Characters from which on a part is kept; shorter ones take less than two milliseconds."""
MOST_CHARACTERS = 1 << 25
"""Of all parts that are kept: some 100 MB with their token ids."""


class TextPieces:
    """Tokenises text, and keeps what its long parts gave. Safe to call from many threads.

    Args:
        tokenizer: a Hugging Face tokenizer; of a slow one, and of one whose special tokens take in
            the text around them, nothing is kept.
        encode: from a text to its token ids, special tokens read as such and none added.
        most_characters: how much is kept, the longest unused forgotten first.
    """

    def __init__(
        self,
        tokenizer: Any,
        encode: Callable[[str], list[int]],
        most_characters: int = MOST_CHARACTERS,
    ):
        self._encode = encode
        self._begins = _special_tokens(tokenizer)
        self._checked = False
        self._most = most_characters
        self._kept: OrderedDict[tuple[str, str], array[int]] = OrderedDict()
        self._characters = 0
        self._lock = threading.Lock()

    def __call__(self, text: str, tenant: str) -> list[int]:
        """The token ids of a text.

        Args:
            text: may be longer than any prompt.
            tenant: parts that another one sent are not looked at, as the time would tell of them.
        """
        begins = self._begins
        if begins is None or len(text) < LONG:
            return self._encode(text)
        found: list[Sequence[int]] = []
        short = ""
        for part in _parts(text, begins):
            if len(part) < LONG:
                short += part
                continue
            found += [self._encode(short)] if short else []
            found.append(self._look_up(part, tenant))
            short = ""
        found += [self._encode(short)] if short else []
        ids = list(chain.from_iterable(found))
        if not self._checked and len(found) > 1:  # a tokenizer that cuts otherwise than it says
            whole = self._encode(text)
            self._checked = True
            if ids != whole:
                self._begins = None
                return whole
        return ids

    def _look_up(self, part: str, tenant: str) -> array[int]:
        key = (tenant, part)
        with self._lock:
            known = self._kept.get(key)
            if known is not None:
                self._kept.move_to_end(key)
                return known
        made = array("i", self._encode(part))
        with self._lock:
            if key not in self._kept and len(part) <= self._most:
                self._kept[key] = made
                self._characters += len(part)
                while self._characters > self._most:
                    (_, forgotten), _ = self._kept.popitem(last=False)
                    self._characters -= len(forgotten)
        return made


def _parts(text: str, begins: re.Pattern[str]) -> Iterator[str]:
    start = 0
    for found in begins.finditer(text):
        if found.start() > start:
            yield text[start : found.start()]
            start = found.start()
    yield text[start:]


def _special_tokens(tokenizer: Any) -> re.Pattern[str] | None:
    """Where text is cut; None where no token is known to cut it."""
    if not getattr(tokenizer, "is_fast", False) or getattr(tokenizer, "split_special_tokens", True):
        return None
    added = list(tokenizer.added_tokens_decoder.values())
    overlapping = {a.content for a, b in permutations(added, 2) if _overlap(a.content, b.content)}
    cuts = [
        token.content
        for token in added
        if not (token.lstrip or token.rstrip or token.single_word or token.normalized)
        and token.content not in overlapping
    ]
    return re.compile("|".join(map(re.escape, sorted(cuts)))) if cuts else None


def _overlap(one: str, other: str) -> bool:
    """Whether some text can hold both of them in the same place, in part or whole."""
    if one in other or other in one:
        return True
    most = min(len(one), len(other))
    return any(one[-n:] == other[:n] or other[-n:] == one[:n] for n in range(1, most))
