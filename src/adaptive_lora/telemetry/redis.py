"""Metrics of the Redis that gateways share."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter

from adaptive_lora.telemetry.up import UpGauge


class RedisMetrics:
    """What the connection reports. In a registry of its own unless one is given."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        registry = registry or CollectorRegistry()
        self.up = UpGauge("redis_up", "1 while commands are tried: the breaker is closed")
        registry.register(self.up)
        self._failures = Counter(
            "redis_failures", "Commands that failed: timeout, error", ["kind"], registry=registry
        )
        self._opened = Counter("redis_breaker_opened", "Outages that began", registry=registry)

    def failed(self, kind: str) -> None:
        """`kind` is "timeout" or "error"."""
        self._failures.labels(kind).inc()

    def opened(self) -> None:
        self._opened.inc()
        self.up.is_up = False

    def closed(self) -> None:
        self.up.is_up = True
