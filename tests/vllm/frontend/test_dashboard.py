"""The Grafana dashboard asks for metrics and labels that the plugin has."""

# pyright: reportMissingImports=false

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import cast

from prometheus_client import CollectorRegistry, generate_latest
from tests.vllm.frontend.test_endpoint import report

from lragent.vllm.frontend.metrics import ReportCollector
from lragent.vllm.messages import Report

DASHBOARD = Path(__file__).parents[3] / "grafana" / "lragent.json"


def test_the_dashboard_shows_what_there_is() -> None:
    collector = ReportCollector()
    collector.reports = {0: cast(Report, report(1))}
    registry = CollectorRegistry()
    registry.register(collector)
    lines = generate_latest(registry).decode().splitlines()
    known = {re.split(r"[{ ]", line)[0] for line in lines if not line.startswith("#")}
    labels = set(re.findall(r'(\w+)="', "\n".join(lines)))
    panels = json.loads(DASHBOARD.read_text())["panels"]
    queries = [target["expr"] for panel in panels for target in panel["targets"]]
    asked = {name for query in queries for name in re.findall(r"\blragent_\w+", query)}
    assert asked == known, "neither unknown ones nor any that no panel shows"
    grouped = {label for query in queries for label in re.findall(r"by \((\w+)\)", query)}
    assert grouped | {"engine"} == labels
