"""The Grafana dashboard asks for metrics and labels that engines have."""

from __future__ import annotations

import json
import re
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest

from lragent.sharing.metrics import ReportCollector
from lragent.sharing.report import Report

DASHBOARD = Path(__file__).parents[2] / "grafana" / "lragent.json"

REPORT: Report = {
    "pages": {"total": 9, "leased": 1, "cached": 1},
    "bytes": {"page": 1, "base": 2, "lr": 3, "lr_valid": 4},
    "requests": 1,
    "tokens": dict.fromkeys(("prompt", "base_hit", "lr_hit", "reused", "recomputed"), 1),
    "not_shared": {"not_seen": 1},
    "unloaded": {"adapters": 0, "bytes": 0},
    "groups": [],
}


def test_the_dashboard_shows_what_there_is() -> None:
    collector = ReportCollector()
    collector.reports = {0: REPORT}
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
