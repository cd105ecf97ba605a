"""Cutting text into sentences and short passages."""

from __future__ import annotations

import re

PASSAGE_CHARS = 340
"""Longest passage a tool shows, in characters: about 90 tokens of a small model's vocabulary."""

_BOUNDARY = re.compile(r"[.!?][\"')\]\u201d\u2019]*\s+(?=[\"'(\[\u201c\u2018]*(?P<next>\w))")
_ABBREVIATION = re.compile(
    r"(?:\b(?:Mr|Mrs|Ms|Dr|St|Mt|Jr|Sr|vs|No|Inc|Ltd|Co|Corp|Gen|Col|Capt|Lt|Rev|Prof|feat|ca|c)"
    r"|\b[A-Z]|\b(?:[A-Za-z]\.)+[A-Za-z])\.$"
)
_LONGEST = 40  # characters in which an abbreviation is looked for, and no more of long sentences


def split_sentences(text: str) -> list[str]:
    """Split at full stops, but not after initials and common abbreviations."""
    text = " ".join(text.split())
    sentences: list[str] = []
    start = 0
    for match in _BOUNDARY.finditer(text):
        end = text[max(start, match.end() - _LONGEST) : match.end()].strip()
        if match["next"].islower() or _ABBREVIATION.search(end):
            continue
        sentences.append(text[start : match.end()].strip())
        start = match.end()
    rest = text[start:].strip()
    return [*sentences, rest] if rest else sentences


def clip(text: str, limit: int = PASSAGE_CHARS) -> str:
    """Shorten to at most `limit` characters, at a word's end, marked by " ..."."""
    text = " ".join(text.split())
    if len(text) <= limit:
        return text
    return text[: limit - 3].rsplit(" ", 1)[0].rstrip(",;: ") + " ..."


def split_passages(paragraph: str, limit: int = PASSAGE_CHARS) -> list[str]:
    """Pack whole sentences into passages of at most `limit` characters; a longer one is clipped."""
    passages: list[str] = []
    current = ""
    for sentence in split_sentences(paragraph):
        joined = f"{current} {sentence}".strip()
        if len(joined) <= limit:
            current = joined
            continue
        if current:
            passages.append(current)
        current = clip(sentence, limit)
    return [*passages, current] if current else passages
