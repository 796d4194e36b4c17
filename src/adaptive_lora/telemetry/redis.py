"""Metrics of the Redis that gateways share. None is exposed where none is configured."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge


class RedisMetrics:
    """What the connection reports. In a registry of its own unless one is given."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        registry = registry or CollectorRegistry()
        self._up = Gauge("redis_up", "1 while commands are tried: the breaker is closed", registry=registry)
        self._failures = Counter(
            "redis_failures", "Commands that failed: timeout, error", ["kind"], registry=registry
        )
        self._opened = Counter("redis_breaker_opened", "Changes from tried to not tried", registry=registry)
        self._up.set(1)

    def failed(self, kind: str) -> None:
        """`kind` is "timeout" or "error"."""
        self._failures.labels(kind).inc()

    def opened(self) -> None:
        self._opened.inc()
        self._up.set(0)

    def closed(self) -> None:
        self._up.set(1)
