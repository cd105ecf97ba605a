"""Answer scores of HotpotQA: exact match and F1 over normalised words."""

from __future__ import annotations

import re
import string
from collections import Counter

_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize_answer(answer: str) -> str:
    """Lower case without punctuation, articles and surplus spaces, as the official evaluation."""
    text = answer.lower().translate(_PUNCTUATION)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def exact_match(prediction: str, gold: str) -> bool:
    """Whether both normalise to the same text."""
    return normalize_answer(prediction) == normalize_answer(gold)


def f1_score(prediction: str, gold: str) -> float:
    """Word F1 in [0, 1]; yes, no and "noanswer" score only when equal."""
    predicted, wanted = normalize_answer(prediction), normalize_answer(gold)
    if predicted != wanted and {predicted, wanted} & {"yes", "no", "noanswer"}:
        return 0.0
    common = sum((Counter(predicted.split()) & Counter(wanted.split())).values())
    if common == 0:
        return 0.0
    precision = common / len(predicted.split())
    recall = common / len(wanted.split())
    return 2 * precision * recall / (precision + recall)
