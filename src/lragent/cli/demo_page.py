"""The demo's outcome as one HTML file, which opens without a network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lragent.agents.hand_overs import HandOver
from lragent.cli.demo_report import DemoReport


def write_page(report: DemoReport, turns: Sequence[HandOver], sentence: str, path: Path) -> None:
    """Write the page; raises OSError when the file cannot be written."""
    from jinja2 import Environment, PackageLoader
    from markupsafe import Markup

    from lragent.cli import demo_figures

    pictures = {}
    if turns:
        pictures["timeline"] = demo_figures.timeline_figure(turns)
        pictures["pages"] = demo_figures.pages_figure(turns)
    if report.outcomes:
        pictures["policies"] = demo_figures.policy_figure(report.outcomes)
    environment = Environment(loader=PackageLoader("lragent.cli", "."), autoescape=True)
    page = environment.get_template("demo_page.html").render(
        report=report, turns=turns, sentence=sentence,
        pictures={name: Markup(picture) for name, picture in pictures.items()},
    )  # fmt: skip
    path.write_text(page, encoding="utf-8")
