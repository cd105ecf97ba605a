"""What both examples learn: to name the last thing on a list."""

from __future__ import annotations

import random

WORDS = ["apple", "bridge", "cloud", "drum", "engine", "flute", "garden", "hammer", "island"]


def questions(count: int, seed: int = 0) -> list[dict[str, str]]:
    """Prompts and completions."""
    rng = random.Random(seed)
    found = []
    for _ in range(count):
        things = rng.sample(WORDS, rng.randint(3, 8))
        prompt = f"List: {', '.join(things)}. The last thing is:"
        found.append({"prompt": prompt, "completion": f" {things[-1]}"})
    return found
