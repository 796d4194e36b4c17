"""Metrics of batches. No label names a tenant or a batch."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge


class BatchMetrics:
    """What this gateway does of batches. In a registry of its own unless one is given."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        registry = registry or CollectorRegistry()
        self._ended = Counter(
            "batches",
            "Batches that this gateway brought to their end: completed, failed, expired, cancelled",
            ["status"],
            registry=registry,
        )
        self._items = Counter(
            "batch_requests",
            "Requests of batches: completed, failed, and each time that one had to wait and be retried",
            ["outcome"],
            registry=registry,
        )
        self._running = Gauge("batches_running", "Batches that this gateway runs", registry=registry)

    def ended(self, status: str) -> None:
        self._ended.labels(status).inc()

    def item(self, outcome: str) -> None:
        """`outcome` is "completed", "failed" or "retried"."""
        self._items.labels(outcome).inc()

    def running(self, n: int) -> None:
        self._running.set(n)
