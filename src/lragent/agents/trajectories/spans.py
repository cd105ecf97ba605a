"""Finding names in text, and cutting short extracts out of sentences."""

from __future__ import annotations

import re

STOPWORDS = frozenset(
    re.findall(
        r"\w+",
        """
        a an the of in on at by for to from with and or as is are was were be been it its his her
        their that this these those which who whom whose what when where how many much did do does
        has have had not also both same other than into one first about after before between during
        name called known he she they
        """,
    )
)


def short_title(title: str) -> str:
    """Title without its trailing parenthesis."""
    return re.sub(r"\s*\([^()]*\)\s*$", "", title) or title


def mention(title: str, text: str) -> str | None:
    """How `text` names the page: title, title without parenthesis, or the part before a comma."""
    names = [title, short_title(title)]
    if "," in title:
        names.append(title.split(",")[0])
    for name in dict.fromkeys(names):
        found = re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text, re.IGNORECASE)
        if found and any(c.isupper() or c.isdigit() for c in found.group()):
            return found.group()
    return None


def contains(text: str, part: str) -> bool:
    """Whether `part` stands in `text` as whole words, in any case."""
    return re.search(rf"(?<!\w){re.escape(part)}(?!\w)", text, re.IGNORECASE) is not None


def content_words(text: str) -> list[str]:
    """Words that carry meaning, lower case."""
    return [w for w in re.findall(r"\w+", text.lower()) if w not in STOPWORDS and len(w) > 1]


def overlap(text: str, question: str) -> int:
    """Number of different content words that both texts have."""
    return len(set(content_words(text)) & set(content_words(question)))


def extract(sentence: str, part: str | None = None, limit: int = 22) -> str:
    """At most about `limit` words of `sentence`, copied in order, with `part` inside.

    Parentheses without `part` are left out. The extract starts at the sentence's start when `part`
    comes early enough, else at a clause start before it.
    """
    if part is None or not any(contains(group, part) for group in _parentheses(sentence)):
        sentence = re.sub(r"\s*\([^()]*\)", "", sentence)
    words = sentence.split()
    first, last = _place(words, part) if part else (0, 0)
    start = 0
    if last >= limit + 8:
        breaks = [i + 1 for i in range(max(first - limit, 0), first) if words[i][-1] in ",;:"]
        start = breaks[0] if breaks else max(first - limit // 2, 0)
    end = len(words)
    if end - start > limit:
        end = min(max(last + 1, start + limit), len(words))
        breaks = [i + 1 for i in range(max(last, start + 5), end) if words[i][-1] in ",;"]
        end = breaks[-1] if breaks else end
    while end - 1 > max(last, start) and words[end - 1].lower() in STOPWORDS:
        end -= 1
    text = " ".join(words[start:end]).rstrip(".,;: ")
    return f"{text})" if text.count("(") > text.count(")") else text


def _parentheses(sentence: str) -> list[str]:
    return re.findall(r"\([^()]*\)", sentence)


def _place(words: list[str], part: str) -> tuple[int, int]:
    """First and last word index of `part`, or (0, 0)."""
    for first in range(len(words)):
        for last in range(first, min(first + 15, len(words))):
            if contains(" ".join(words[first : last + 1]), part):
                while first < last and contains(" ".join(words[first + 1 : last + 1]), part):
                    first += 1
                return first, last
    return 0, 0
