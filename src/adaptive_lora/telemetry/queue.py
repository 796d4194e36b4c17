"""Metrics of the tenants' queues. No label tells a tenant from another."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from adaptive_lora.telemetry.adapters import WAIT_SECONDS

PRIORITIES = ("interactive", "batch")
REFUSALS = ("tenant_full", "tenant_wait", "system_wait", "deadline")


class QueueMetrics:
    """What the queues report. In a registry of its own unless one is given."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        registry = registry or CollectorRegistry()
        self._waiting = Gauge(
            "queue_waiting",
            "Generations that wait to be let into the engine",
            ["priority"],
            registry=registry,
        )
        self._inside = Gauge(
            "queue_inside",
            "Sequences that have been let in, and have not ended",
            ["priority"],
            registry=registry,
        )
        self._rate = Gauge(
            "queue_service_tokens_per_second",
            "Tokens that get done in a second while somebody waits; 0 until enough is known",
            registry=registry,
        )
        wait = Histogram(
            "queue_wait_seconds",
            "From joining a tenant's queue to being let into the engine",
            ["priority"],
            buckets=WAIT_SECONDS,
            registry=registry,
        )
        self._wait = {priority: wait.labels(priority) for priority in PRIORITIES}
        refused = Counter(
            "queue_refused",
            "Generations that were not let in: tenant_full, tenant_wait (429), system_wait (503), deadline "
            "(504, it passed while they waited)",
            ["reason"],
            registry=registry,
        )
        self._refused = {reason: refused.labels(reason) for reason in REFUSALS}

    def admitted(self, priority: str, *, seconds: float) -> None:
        """`priority` is one of PRIORITIES."""
        self._wait[priority].observe(seconds)

    def refused(self, reason: str) -> None:
        """`reason` is one of REFUSALS."""
        self._refused[reason].inc()

    def watch(self, priority: str, *, n_waiting: Callable[[], float], n_inside: Callable[[], float]) -> None:
        """Read the gauges of a priority when the page is asked for."""
        self._waiting.labels(priority).set_function(n_waiting)
        self._inside.labels(priority).set_function(n_inside)

    def watch_rate(self, tokens_per_s: Callable[[], float]) -> None:
        self._rate.set_function(tokens_per_s)
