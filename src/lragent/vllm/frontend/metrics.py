"""The report as Prometheus metrics."""

# pyright: reportMissingImports=false

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from lragent.vllm.messages import Report

_TOKENS = {
    "prompt": "Tokens of admitted prompts.",
    "base_hit": "Prompt tokens whose keys and base values were cached.",
    "lr_hit": "Prompt tokens whose low-rank slot was valid, of requests that read one.",
    "reused": "Prompt tokens that needed no computation.",
    "recomputed": "Tokens run again although their keys and base values were cached.",
}


class ReportCollector:
    """Gives the latest report to a Prometheus registry; ``report`` is None before the first."""

    def __init__(self) -> None:
        self.report: Report | None = None

    def collect(self) -> Iterator[Metric]:
        """The metrics of the latest report."""
        if self.report is not None:
            yield from _families(self.report)


def _families(report: Report) -> Iterator[Metric]:
    yield _labelled(
        GaugeMetricFamily("lragent_pages", "Pages by state.", labels=["state"]), report["pages"]
    )
    yield _labelled(
        GaugeMetricFamily("lragent_kv_bytes", "Bytes of used pages by kind.", labels=["kind"]),
        report["bytes"],
    )
    for name, text in _TOKENS.items():
        yield CounterMetricFamily(f"lragent_{name}_tokens", text, value=report["tokens"][name])
    yield CounterMetricFamily("lragent_admissions", "Admissions.", value=report["requests"])
    yield _labelled(
        CounterMetricFamily(
            "lragent_not_shared", "Admissions that reused no page, by reason.", labels=["reason"]
        ),
        report["not_shared"],
    )
    yield CounterMetricFamily(
        "lragent_unloaded_adapters", "Adapters unloaded.", value=report["unloaded"]["adapters"]
    )
    yield CounterMetricFamily(
        "lragent_unloaded_bytes",
        "Bytes of pages that unloads took out of the cache.",
        value=report["unloaded"]["bytes"],
    )


def _labelled(family: Any, values: dict[str, int]) -> Metric:
    for label, value in values.items():
        family.add_metric([label], value)
    return family
