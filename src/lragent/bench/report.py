"""A result as one HTML file, which opens without a network."""

from __future__ import annotations

from pathlib import Path

from lragent.bench.result import BenchResult
from lragent.bench.verdict import Verdict


def write_report(result: BenchResult, verdict: Verdict, path: Path) -> None:
    """Write the report; raises OSError when the file cannot be written."""
    from jinja2 import Environment, PackageLoader

    longest = max(max(p.cold_s, p.warm_s, p.hand_over_s) for p in result.pairs)
    environment = Environment(loader=PackageLoader("lragent.bench", "."), autoescape=True)
    page = environment.get_template("report.html").render(
        r=result, verdict=verdict, longest=longest
    )
    path.write_text(page, encoding="utf-8")
