"""Take the pictures of the page: three agents answer over one context, on the demo's model.

Run from the root of a checkout: `python -m docs.images.shoot`. Needs Chromium and Pillow.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, cast

from PIL import Image
from playwright.sync_api import Page, expect
from tests.server.browser import launched, opened
from tests.server.serving import KEY, Served, options_of, over_http

from lragent.agents.demo import demo_adapters, demo_text
from lragent.engine import Engine

HERE = Path(__file__).parent
CONTEXT_CHARACTERS = 5000
QUESTIONS = ("In which town was Ada Lorne born?", "Who built the Gannet Bridge?")


def ask(served: Served, question: str) -> None:
    """A question passes all agents, who read the same documents and what was said so far."""
    said: list[Any] = [
        {"role": "system", "content": demo_text()[:CONTEXT_CHARACTERS]},
        {"role": "user", "content": question},
    ]
    with served.client() as client:
        for agent in ("plan", "act", "reflect"):
            answer = client.chat.completions.create(
                model=agent, messages=cast(Any, said), max_tokens=40, temperature=0
            )
            said.append({"role": "assistant", "content": answer.choices[0].message.content})
            said.append({"role": "user", "content": "Go on."})


def visit(page: Page, served: Served) -> None:
    """Open the page with the key."""
    page.goto(served.url)
    page.get_by_label("This server asks for its API key").fill(KEY)
    page.keyboard.press("Enter")
    expect(page.get_by_role("article").first).to_be_visible()


def shoot(page: Page, name: str, requests: int) -> None:
    """Write a picture of 128 colours."""
    done = page.get_by_role("article", name=": done")
    expect(done).to_have_count(requests, timeout=60_000)
    done.first.locator("summary").click()
    picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    picture.quantize(128).save(HERE / f"{name}.png", optimize=True)


def main() -> None:
    """Serve, ask, and take the pictures: the second question comes while the page is open."""
    with (
        Engine("smollm2", demo_adapters(), "neutral", background=True) as engine,
        over_http(engine, options_of(base_model="smollm2")) as served,
        launched() as browser,
        opened(browser, 1100, height=1150) as wide,
        opened(browser, 400, "dark", height=1150) as narrow,
    ):
        ask(served, QUESTIONS[0])
        for page in (wide, narrow):
            visit(page, served)
        ask(served, QUESTIONS[1])
        shoot(wide, "page-light", 6)
        shoot(narrow, "page-narrow-dark", 6)


if __name__ == "__main__":
    main()
