"""Many clients at once, some of which leave early, against a server that runs.

lragent serve --model FOLDER --sharing base+lr --adapter plan=… --api-key KEY
python -m benchmarks.server_load --key KEY --pid PID --seconds 120 --models base plan

The server's memory is read at each quarter of the time: it is flat if the last half adds nothing,
after the first one has filled the caches.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx2 as httpx
import openai


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


async def storm(url: str, key: str, models: Sequence[str], clients: int, seconds: float) -> Outcome:
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
            *(_client(client, models, random.Random(i), end, outcome) for i in range(clients))
        )
    return outcome


async def _client(
    client: openai.AsyncOpenAI,
    models: Sequence[str],
    dice: random.Random,
    end: float,
    outcome: Outcome,
) -> None:
    while time.monotonic() < end:
        try:
            kept = await _ask(client, dice.choice(models), dice)
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


async def _ask(client: openai.AsyncOpenAI, model: str, dice: random.Random) -> bool:
    """One request; False when its client left."""
    topic = f"Topic {dice.randrange(4)}. " + "A text that several agents read. " * dice.randrange(6)
    wanted: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "user", "content": topic + "x" * dice.randrange(20)}],
        "max_tokens": dice.randrange(1, 24),
        "n": dice.choice((1, 1, 2)),
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


async def _resident(pid: int, at: Sequence[float], into: list[int]) -> None:
    """Note the resident memory of a process, in MiB, at some seconds from now."""
    begun = time.monotonic()
    for second in at:
        await asyncio.sleep(begun + second - time.monotonic())
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        into.append(pages * os.sysconf("SC_PAGE_SIZE") >> 20)


async def _measure(options: argparse.Namespace) -> dict[str, Any]:
    resident: list[int] = []
    quarters = [options.seconds * quarter / 4 for quarter in range(5)]
    watching = asyncio.create_task(_resident(options.pid, quarters, resident))
    outcome = await storm(
        options.url, options.key, options.models, options.clients, options.seconds
    )
    await watching
    async with httpx.AsyncClient(headers={"Authorization": f"Bearer {options.key}"}) as http:
        stats = (await http.get(f"{options.url}/v1/lragent/stats")).json()
    return {
        **asdict(outcome),
        "resident_mib": resident,
        "growth_of_last_half_mib": resident[4] - resident[2],
        "pages": stats["engines"][0]["pages"],
    }


def main() -> None:
    """Print what happened as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--key", default="none")
    parser.add_argument("--pid", type=int, required=True, help="the server's, for its memory")
    parser.add_argument("--models", nargs="+", required=True)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=120)
    print(json.dumps(asyncio.run(_measure(parser.parse_args())), indent=2))


if __name__ == "__main__":
    main()
