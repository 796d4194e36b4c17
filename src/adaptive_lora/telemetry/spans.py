"""Metrics of the spans that are sent to a collector."""

from __future__ import annotations

from typing import Literal

from prometheus_client import CollectorRegistry, Counter

from adaptive_lora.telemetry.up import UpGauge


class SpanMetrics:
    """What the export reports. In a registry of its own unless one is given."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        registry = registry or CollectorRegistry()
        self.up = UpGauge("trace_collector_up", "1 while the collector takes traces")
        registry.register(self.up)
        self._spans = Counter(
            "trace_spans",
            "Spans by fate: exported; failed, the collector did not take them; dropped, too many waited",
            ["outcome"],
            registry=registry,
        )

    def counted(self, outcome: Literal["exported", "failed", "dropped"], n_spans: int = 1) -> None:
        if n_spans:
            self._spans.labels(outcome).inc(n_spans)
