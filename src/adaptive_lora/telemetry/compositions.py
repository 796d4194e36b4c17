"""Metrics of the compositions of agents: how many are loaded, how often one was there, found, built or
evicted."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector


class Counts(Protocol):
    """What `agents.compositions.CompositionCounts` holds; each only grows."""

    hits: int
    found: int
    built: int
    build_seconds: float
    failed: int
    evicted: int


class CompositionMetrics(Collector):
    """Reads the counts when it is scraped. `read` is set by whoever serves compositions."""

    def __init__(self) -> None:
        self.read: Callable[[], tuple[Counts, int]] | None = None
        """The counts, and how many are loaded."""

    def collect(self) -> Iterable[Metric]:
        events = CounterMetricFamily(
            "lora_composition_events",
            "Compositions asked for by what that took (hit, found on disk, built, failed), and evicted ones",
            labels=["event"],
        )
        seconds = CounterMetricFamily("lora_composition_build_seconds", "Time spent on building compositions")
        loaded = GaugeMetricFamily("lora_compositions_loaded", "Compositions in the engine")
        if self.read is not None:
            counts, n_loaded = self.read()
            for event, count in (
                ("hit", counts.hits),
                ("found", counts.found),
                ("built", counts.built),
                ("failed", counts.failed),
                ("evicted", counts.evicted),
            ):
                events.add_metric([event], count)
            seconds.add_metric([], counts.build_seconds)
            loaded.add_metric([], n_loaded)
        yield from (events, seconds, loaded)
