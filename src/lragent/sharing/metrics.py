"""Reports as Prometheus metrics, with vLLM's own label of an engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from lragent.sharing.report import Report

_TOKENS = {
    "prompt": "Tokens of admitted prompts.",
    "base_hit": "Prompt tokens whose keys and base values were cached.",
    "lr_hit": "Prompt tokens whose low-rank slot was valid, of requests that read one.",
    "reused": "Prompt tokens that needed no computation.",
    "recomputed": "Tokens run again although their keys and base values were cached.",
}


class ReportCollector:
    """Gives the latest report of each engine to a Prometheus registry.

    The attribute ``reports`` holds them by the engine's index; it is empty before the first.
    """

    def __init__(self) -> None:
        self.reports: Mapping[int, Report] = {}

    def collect(self) -> Iterator[Metric]:
        """The metrics of the latest reports."""
        if not self.reports:
            return
        gauge, counter = GaugeMetricFamily, CounterMetricFamily
        yield self._family(gauge, "pages", "Pages by state.", lambda r: r["pages"], "state")
        yield self._family(
            gauge, "kv_bytes", "Bytes of cached pages by kind.", lambda r: r["bytes"], "kind"
        )
        for name, text in _TOKENS.items():
            yield self._family(counter, f"{name}_tokens", text, _only("tokens", name))
        yield self._family(counter, "admissions", "Admissions.", lambda r: {"": r["requests"]})
        yield self._family(
            counter, "not_shared", "Admissions that reused no page, by reason.",
            lambda r: r["not_shared"], "reason",
        )  # fmt: skip
        yield self._family(
            counter, "unloaded_adapters", "Adapters unloaded.", _only("unloaded", "adapters")
        )
        yield self._family(
            counter, "unloaded_bytes", "Bytes of pages that unloads took out of the cache.",
            _only("unloaded", "bytes"),
        )  # fmt: skip

    def _family(
        self,
        kind: type[GaugeMetricFamily] | type[CounterMetricFamily],
        name: str,
        text: str,
        values: Callable[[Report], Mapping[str, int]],
        label: str | None = None,
    ) -> Metric:
        labels = ["engine"] if label is None else ["engine", label]
        family = kind(f"lragent_{name}", text, labels=labels)
        for index, report in self.reports.items():
            for what, value in values(report).items():
                family.add_metric([str(index), what][: len(labels)], value)
        return family


def _only(part: str, name: str) -> Callable[[Report], Mapping[str, int]]:
    return lambda report: {name: report[part][name]}
