"""The page in a real browser, over a server of ours and over one that has reports only."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect
from tests.server.browser import launched, opened
from tests.server.serving import KEY, Served, serving

from lragent import page as page_files

LONG = "A text that several agents read, one after the other. " * 4
CONTRAST = """() => [...document.querySelectorAll("h1, h2, dt, dd, th, .note, .agent, article p")]
    .filter(node => node.checkVisibility() && node.textContent.trim())
    .map(node => {
        const canvas = document.createElement("canvas").getContext("2d");
        const rgb = colour => {
            canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
            return [...canvas.getImageData(0, 0, 1, 1).data];
        };
        let ground = node;
        const back = () => getComputedStyle(ground).backgroundColor;
        while (rgb(back())[3] < 255) ground = ground.parentElement;
        const light = colour => {
            const [r, g, b] = rgb(colour).map(c => c / 255)
                .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
            return 0.2126 * r + 0.7152 * g + 0.0722 * b;
        };
        const pair = [light(getComputedStyle(node).color),
                      light(back())].sort((a, b) => b - a);
        return [(pair[0] + 0.05) / (pair[1] + 0.05), node.outerHTML.slice(0, 80)];
    })"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched() as made:
        yield made


@pytest.fixture(scope="module")
def running(adapters: dict[str, Path]) -> Iterator[Served]:
    with serving(adapters) as served:
        yield served


def visit(page: Page, served: Served) -> None:
    """Open the page as somebody who has the key."""
    page.goto(served.url)
    page.get_by_label("This server asks for its API key").fill(KEY)
    page.keyboard.press("Enter")
    expect(page.get_by_role("status")).to_contain_text("Live")


def ask(served: Served, model: str, **more: Any) -> None:
    with served.client() as client:
        client.completions.create(
            model=model, prompt=LONG, temperature=0, **{"max_tokens": 20, **more}
        )


def test_the_page_follows_a_hand_over(browser: Browser, running: Served):
    with opened(browser) as page:
        visit(page, running)
        agents = page.locator("#agents li")
        expect(agents).to_have_text(["base", "plan · slot 0", "act · slot 0", "reflect · slot 0"])
        expect(page.get_by_text("plan, act, reflect share under base+lr.")).to_be_visible()

        ask(running, "plan")
        card = page.get_by_role("article", name="plan: done")
        expect(card).to_contain_text("0 reused")
        expect(card).to_contain_text("20 generated")
        expect(card).to_contain_text("reused nothing: nobody has sent it before")
        ask(running, "act")
        card = page.get_by_role("article", name="act: done")
        expect(card).to_contain_text(re.compile(r"\b20[0-9] reused"))
        expect(card.locator(".pages .read").first).to_have_text("plan")
        expect(card.locator(".pages > span").nth(1)).to_have_text("act")
        # by keyboard alone: the table behind the picture
        card.locator("summary").focus()
        page.keyboard.press("Enter")
        expect(card.get_by_role("row").nth(1)).to_contain_text("plan")
        ask(running, "reflect")
        expect(card.get_by_role("row").nth(1)).to_contain_text("act, reflect")

        hand_over = page.locator("#handovers tbody tr").last
        expect(hand_over).to_contain_text("plan → act")
        expect(hand_over).to_contain_text("times as long")
        expect(page.get_by_role("log").locator("li").first).to_contain_text("tokens reused")
        expect(page.locator("#bytes")).to_contain_text("The same under isolated")
        expect(page.locator("#left-out")).to_be_hidden()


def test_a_request_is_seen_while_it_streams(browser: Browser, running: Served):
    with opened(browser) as page:
        visit(page, running)
        with running.client() as client:
            stream = client.completions.create(
                model="act", prompt="Once upon a time", max_tokens=2000, stream=True,
                extra_body={"ignore_eos": True},
            )  # fmt: skip
            with stream:
                card = page.get_by_role("article", name="act: writing")
                expect(card).to_be_visible()
                text = card.get_by_label("Answer").text_content() or ""
                expect(card.get_by_label("Answer")).not_to_have_text(text)
                expect(page.get_by_role("status")).to_contain_text("1 running")
        expect(page.get_by_role("article", name="act: cancelled")).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_narrow_screen_in_both_schemes(browser: Browser, running: Served, scheme: Any):
    ask(running, "plan")
    ask(running, "act")
    with opened(browser, 400, scheme) as page:
        visit(page, running)
        expect(page.get_by_role("article").first).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= 400
        weak = [each for each in page.evaluate(CONTRAST) if each[0] < 4.5]
        assert weak == []


def test_what_a_screen_reader_is_told(browser: Browser, running: Served):
    with opened(browser) as page:
        visit(page, running)
        ask(running, "plan")
        expect(page.get_by_role("article").first).to_be_visible()
        headings = page.get_by_role("heading", level=2).all_text_contents()
        assert headings == ["Agents", "Cache", "Hand-overs", "Hits as they happen", "Requests"]
        nameless = page.evaluate(
            "[...document.querySelectorAll('input, button, section, article, [tabindex]')]"
            ".filter(e => e.checkVisibility() && !(e.ariaLabel || e.textContent.trim()"
            " || e.getAttribute('aria-labelledby') || e.labels?.length)).map(e => e.outerHTML)"
        )
        assert nameless == []


def test_hostile_names_stay_text(browser: Browser, running: Served, adapters: dict[str, Path]):
    name = "<img src=x onerror=alert(1)>"
    running.engine.load_adapter(name, adapters["plan"])
    with opened(browser) as page:
        visit(page, running)
        ask(running, name)
        expect(page.get_by_role("article", name=f"{name}: done")).to_be_visible()
        expect(page.locator("#agents li").last).to_contain_text(name)
        assert page.locator("main img").count() == 0
    running.engine.unload_adapter(name)


class Reports(BaseHTTPRequestHandler):
    """As vLLM with the plugin: models and reports, and nothing else of ours."""

    reused = 0
    on = True

    def do_GET(self) -> None:
        tokens: dict[str, int] = dict.fromkeys(("prompt", "base_hit", "recomputed"), 4000)
        tokens["reused"] = type(self).reused
        report = {
            "pages": {"total": 100, "leased": 2, "cached": 40},
            "bytes": {"page": 1024, "base": 32768, "lr": 8192, "lr_valid": 4096},
            "requests": 3,
            "tokens": tokens,
            "not_shared": {"policy": 2},
            "unloaded": {"adapters": 0, "bytes": 0},
            "groups": [],
        }
        models = [{"id": "big", "parent": None}, {"id": "plan", "parent": "big"}]
        known = {"/v1/models": {"data": models}}
        if self.on:
            known["/v1/lragent/stats"] = {"engines": [report, report]}
        name = self.path.removeprefix("/lragent/") or "index.html"
        file = page_files.FOLDER / name
        if self.path in known:
            self._send("application/json", json.dumps(known[self.path]).encode())
        elif self.path.startswith("/lragent/") and file.is_file():
            kinds = {".js": "text/javascript", ".css": "text/css", ".html": "text/html"}
            self._send(kinds[file.suffix], file.read_bytes())
        else:
            self.send_error(404)

    def _send(self, kind: str, data: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Keep the test's output clean."""


@pytest.fixture
def reports() -> Iterator[str]:
    Reports.reused, Reports.on = 0, True
    with ThreadingHTTPServer(("127.0.0.1", 0), Reports) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}/lragent/"
        http.shutdown()


def test_reports_alone_are_enough(browser: Browser, reports: str):
    with opened(browser) as page:
        page.goto(reports)
        expect(page.get_by_role("status")).to_have_text("Live, once a second")
        expect(page.locator("#agents li")).to_have_text(["big", "plan"])
        expect(page.locator("#numbers")).to_contain_text("80 can be found, 4 in use, of 200")
        expect(page.locator("#bytes")).to_contain_text("In the cache: 80 KiB")
        expect(page.locator("#bytes")).not_to_contain_text("isolated")
        expect(page.get_by_text("this one shares with nobody: 4")).to_be_visible()
        expect(page.get_by_text("This server tells counts only.")).to_be_visible()
        for section in ("#requests", "#handovers"):
            expect(page.locator(section)).to_be_hidden()
        Reports.reused = 1500
        expect(page.get_by_role("log")).to_contain_text("3,000 tokens reused")


def test_a_server_without_the_plugin_is_named_so(browser: Browser, reports: str):
    Reports.on = False
    with opened(browser) as page:
        page.goto(reports)
        expect(page.get_by_role("status")).to_contain_text("sharing is not switched on here")
        Reports.on = True
        expect(page.get_by_role("status")).to_have_text("Live, once a second")
