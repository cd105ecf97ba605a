"""Turning tokens into text as they come, and watching for stop texts."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers.decoders import DecodeStream
from transformers import PreTrainedTokenizerBase


class TextStream:
    """Decodes a growing answer; holds back what may turn out to be part of a stop text.

    Without a tokenizer no text is made and no stop text can be given.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase | None, stop: Sequence[str] = ()):
        self._backend = getattr(tokenizer, "backend_tokenizer", None)
        self._tokenizer = tokenizer
        self._stream = DecodeStream(skip_special_tokens=True)
        self._ids: list[int] = []
        self._text = ""
        self._sent = 0
        self._stop = tuple(stop)
        self.stopped_by: str | None = None

    def push(self, token: int, may_stop: bool = True) -> tuple[str, bool]:
        """Add a token; returns the text that may be shown now, and whether a stop text came.

        With `may_stop` false none is looked for.
        """
        if self._tokenizer is None:
            return "", False
        self._ids.append(token)
        piece = self._decode(token)
        if not piece:
            return "", False
        # a stop text may begin in what was held back, so the search starts there
        start = self._sent
        self._text += piece
        stop = self._stop if may_stop else ()
        found = {s: at for s in stop if (at := self._text.find(s, start)) >= 0}
        if found:
            self.stopped_by = min(found, key=found.__getitem__)
            end = found[self.stopped_by]
            shown = self._text[self._sent : end]
            self._sent = end
            return shown, True
        return self._show(len(self._text) - self._held_back()), False

    def flush(self) -> str:
        """The rest of the text at the end of the generation; nothing after a stop text."""
        if self._tokenizer is None or self.stopped_by is not None:
            return ""
        full = self._tokenizer.decode(self._ids, skip_special_tokens=True)
        if isinstance(full, str) and full.startswith(self._text):
            self._text = full  # incomplete bytes at the end show as replacement characters
        return self._show(len(self._text))

    def _decode(self, token: int) -> str:
        if self._backend is not None:
            return self._stream.step(self._backend, token) or ""
        assert self._tokenizer is not None
        full = self._tokenizer.decode(self._ids, skip_special_tokens=True)
        assert isinstance(full, str)
        return "" if full.endswith("\ufffd") else full[len(self._text) :]

    def _show(self, end: int) -> str:
        shown = self._text[self._sent : end]
        self._sent = max(self._sent, end)
        return shown

    def _held_back(self) -> int:
        longest = max((len(s) for s in self._stop), default=1) - 1
        tail = self._text[self._sent :][-longest:] if longest else ""
        for length in range(len(tail), 0, -1):
            if any(s.startswith(tail[-length:]) for s in self._stop):
                return length
        return 0
