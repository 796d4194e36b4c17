"""Metrics of the adapters in an engine: where they are, what moving them costs, who waits for them.

The label `agent` is the name of a loaded adapter, or the base's: no more series than there are adapters.
Those of an adapter go when it is unloaded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from adaptive_lora.types import Residency

LOAD_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
WAIT_SECONDS = (
    0.001,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    30.0,
    60.0,
    120.0,
    300.0,
)


class ResidencyGauge(Collector):
    """Counts an agent's versions by where they are. `read` is set by the engine's admission."""

    def __init__(self) -> None:
        self.read: Callable[[], Mapping[str, Sequence[Residency]]] = dict

    def collect(self) -> Iterable[GaugeMetricFamily]:
        family = GaugeMetricFamily(
            "lora_adapter_resident",
            "Loaded versions of an agent's adapter, by where their weights are",
            labels=["agent", "where"],
        )
        for agent, places in sorted(self.read().items()):
            for where in get_args(Residency):
                family.add_metric([agent, where], places.count(where))
        yield family


class AdapterMetrics:
    """What an engine's admission reports. In a registry of its own unless one is given."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry()
        self.residency = ResidencyGauge()
        self.registry.register(self.residency)
        self._loads = Counter(
            "lora_adapter_loads", "Adapters loaded into the engine", ["agent"], registry=self.registry
        )
        self._load_seconds = Histogram(
            "lora_adapter_load_seconds",
            "Time to load an adapter into the engine",
            ["agent"],
            buckets=LOAD_SECONDS,
            registry=self.registry,
        )
        self._evictions = Counter(
            "lora_adapter_evictions", "Slots lost to another adapter", ["agent"], registry=self.registry
        )
        self._hits = Counter(
            "lora_adapter_slot_hits",
            "Requests admitted whose adapter was in a slot",
            ["agent"],
            registry=self.registry,
        )
        self._misses = Counter(
            "lora_adapter_slot_misses",
            "Requests admitted whose adapter had to be brought into a slot",
            ["agent"],
            registry=self.registry,
        )
        self._wait = Histogram(
            "lora_queue_wait_seconds",
            "Time that a request waited to be admitted to the engine",
            ["agent"],
            buckets=WAIT_SECONDS,
            registry=self.registry,
        )

    def loaded(self, agent: str, *, seconds: float) -> None:
        self._loads.labels(agent).inc()
        self._load_seconds.labels(agent).observe(seconds)

    def evicted(self, agent: str) -> None:
        self._evictions.labels(agent).inc()

    def admitted(self, agent: str, *, is_hit: bool) -> None:
        (self._hits if is_hit else self._misses).labels(agent).inc()

    def waited(self, agent: str, *, seconds: float) -> None:
        self._wait.labels(agent).observe(seconds)

    def forget(self, agent: str) -> None:
        """Remove the series of an agent of which no version is loaded any more."""
        for metric in (
            self._loads,
            self._load_seconds,
            self._evictions,
            self._hits,
            self._misses,
            self._wait,
        ):
            metric.remove_by_labels({"agent": agent})
