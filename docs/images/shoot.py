"""Take the pictures of the page: three agents answer over one context, on the demo's model.

Run from the root of a checkout: `python -m docs.images.shoot`. Needs Chromium and Pillow.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, Literal, cast

from PIL import Image
from playwright.sync_api import Page, expect
from tests.server.browser import launched, opened
from tests.server.serving import KEY, Served, options_of, over_http

from lragent.agents.demo import demo_adapters, demo_text
from lragent.engine import Engine

HERE = Path(__file__).parent
CONTEXT_CHARACTERS = 5000
QUESTIONS = ("In which town was Ada Lorne born?", "Who built the Gannet Bridge?")


def ask(served: Served) -> None:
    """Each question passes all agents, who read the same documents and what was said so far."""
    with served.client() as client:
        for question in QUESTIONS:
            said: list[Any] = [
                {"role": "system", "content": demo_text()[:CONTEXT_CHARACTERS]},
                {"role": "user", "content": question},
            ]
            for agent in ("plan", "act", "reflect"):
                answer = client.chat.completions.create(
                    model=agent, messages=cast(Any, said), max_tokens=40, temperature=0
                )
                said.append({"role": "assistant", "content": answer.choices[0].message.content})
                said.append({"role": "user", "content": "Go on."})


def shoot(page: Page, served: Served, name: str, height: int) -> None:
    """Write a picture of 128 colours."""
    page.goto(served.url)
    page.get_by_label("This server asks for its API key").fill(KEY)
    page.keyboard.press("Enter")
    expect(page.get_by_role("article")).to_have_count(3 * len(QUESTIONS))
    page.set_viewport_size({"width": page.viewport_size["width"], "height": height})  # pyright: ignore[reportOptionalSubscript]
    picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    picture.quantize(128).save(HERE / f"{name}.png", optimize=True)


def main() -> None:
    """Serve, ask, and take the pictures."""
    shots: list[tuple[str, int, int, Literal["light", "dark"]]] = [
        ("page-light", 1100, 1150, "light"),
        ("page-narrow-dark", 400, 1150, "dark"),
    ]
    with (
        Engine("smollm2", demo_adapters(), "base+lr", background=True) as engine,
        over_http(engine, options_of(base_model="smollm2")) as served,
        launched() as browser,
    ):
        ask(served)
        for name, width, height, scheme in shots:
            with opened(browser, width, scheme) as page:
                shoot(page, served, name, height)


if __name__ == "__main__":
    main()
