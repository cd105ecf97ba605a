"""Many clients at once, some of which leave early."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass, field
from typing import Any

import httpx2 as httpx
import openai

MODELS = ("base", "plan", "act", "reflect")


@dataclass
class Outcome:
    """What clients saw.

    Attributes:
        finished: answers that came whole.
        left: requests that their client left.
        refused: requests that a full queue refused.
        errors: everything else.
    """

    finished: int = 0
    left: int = 0
    refused: int = 0
    errors: list[str] = field(default_factory=list)


async def storm(url: str, key: str, clients: int, seconds: float, seed: int = 0) -> Outcome:
    """Let `clients` ask for all kinds of answers for a while, and wait for the last of them."""
    outcome, end = Outcome(), time.monotonic() + seconds
    limits = httpx.Limits(max_connections=clients)
    async with openai.AsyncOpenAI(
        base_url=f"{url}/v1",
        api_key=key,
        max_retries=0,
        timeout=60,
        http_client=openai.DefaultAsyncHttpxClient(limits=limits),
    ) as client:
        await asyncio.gather(
            *(_client(client, random.Random(seed + i), end, outcome) for i in range(clients))
        )
    return outcome


async def _client(
    client: openai.AsyncOpenAI, dice: random.Random, end: float, outcome: Outcome
) -> None:
    while time.monotonic() < end:
        try:
            kept = await _ask(client, dice)
        except TimeoutError:
            kept = False
        except openai.RateLimitError:
            outcome.refused += 1
            await asyncio.sleep(0.05)
            continue
        except Exception as error:
            outcome.errors.append(repr(error))
            continue
        outcome.finished += kept
        outcome.left += not kept


async def _ask(client: openai.AsyncOpenAI, dice: random.Random) -> bool:
    """One request; False when its client left."""
    topic = f"Topic {dice.randrange(4)}. " + "A text that several agents read. " * dice.randrange(6)
    wanted: dict[str, Any] = {
        "model": dice.choice(MODELS),
        "messages": [{"role": "user", "content": topic + "x" * dice.randrange(20)}],
        "max_tokens": dice.randrange(1, 24),
        "n": 1,
        "temperature": dice.choice((0, 1)),
    }
    patience = dice.choice((None, None, 0.05))
    async with asyncio.timeout(patience):
        if dice.random() < 0.5:
            await client.chat.completions.create(**wanted)
            return True
        stream = await client.chat.completions.create(**wanted, stream=True)
        leaves_after = dice.choice((None, None, 3))
        async with stream:
            count = 0
            async for _ in stream:
                count += 1
                if count == leaves_after:
                    return False
    return True
