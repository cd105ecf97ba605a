"""Samples that teach a base model to read: pages and a question, evidence and answer."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from lragent.agents.tools.passages import clip, split_sentences
from lragent.agents.trajectories.choices import ChoiceQuestion
from lragent.agents.trajectories.spans import contains, extract, overlap

Sample = dict[str, Any]

READ_PROMPT = "Answer the question from the pages."
CHOOSE_PROMPT = "Choose the right option."
PAGE_CHARS = 700
DISTRACTORS = 3


def reading_samples(
    records: Iterable[Mapping[str, Any]], variants: int, rng: random.Random
) -> Iterator[Sample]:
    """Samples of multi-hop questions whose gold pages are known.

    Args:
        records: lines of the data files.
        variants: samples of each, with other pages beside the gold ones in another order.
        rng: chooses those.
    """
    for record in records:
        pages = {title: " ".join("".join(f" {s}" for s in text).split())
                 for title, text in record["context"]}  # fmt: skip
        gold = [title for title in _gold(record) if pages.get(title)]
        if len(gold) < 2:
            continue
        question, answer = record["question"].strip(), record["answer"].strip()
        others = [title for title in pages if title not in gold and pages[title]]
        evidence = _evidence(question, answer, [pages[title] for title in gold])
        for _ in range(variants):
            shown = gold + rng.sample(others, min(len(others), DISTRACTORS))
            rng.shuffle(shown)
            lines = [f"{title}: {clip(pages[title], PAGE_CHARS)}" for title in shown]
            text = "\n".join([*lines, f"Question: {question}"])
            yield sample(READ_PROMPT, text, f"{evidence}The answer is {answer}.")


def choosing_samples(questions: Iterable[ChoiceQuestion]) -> Iterator[Sample]:
    """Samples of multiple-choice questions."""
    for question in questions:
        text = f"Question: {question.asked}"
        yield sample(CHOOSE_PROMPT, text, f"The answer is {question.right}")


def sample(system: str, user: str, output: str) -> Sample:
    """A chat with an answer to learn; `<|im_end|>` is the tokenizer's own end of a turn."""
    messages = [{"role": "system", "content": system}, {"role": "user", "content": user}]
    return {"role": "reader", "input": messages, "output": f"{output}<|im_end|>"}


def _gold(record: Mapping[str, Any]) -> list[str]:
    if record.get("gold_titles"):
        return list(dict.fromkeys(record["gold_titles"]))
    return [record["context"][i][0] for i in record.get("gold_idx") or ()]


def _evidence(question: str, answer: str, pages: Sequence[str]) -> str:
    """What each gold page says that fits the question, with the answer where it stands there."""
    found = []
    for page in pages:
        sentences = split_sentences(page)
        holding = [s for s in sentences if contains(s, answer)]
        best = max(holding or sentences, key=lambda s: overlap(s, question))
        found.append(extract(best, answer if holding else None))
    return "".join(f"{fact}. " for fact in found)
