"""Metrics of the callers' limits. No label names a caller."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter


class LimitMetrics:
    """What the limiter reports. In a registry of its own unless one is given."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        registry = registry or CollectorRegistry()
        self._limited = Counter(
            "rate_limited",
            "Requests refused by a limit: requests, tokens, concurrency, budget, attempts",
            ["reason"],
            registry=registry,
        )
        self._checked = Counter(
            "rate_limit_checks",
            "Checks by whose limits they were: shared (all gateways'), own (this gateway's part)",
            ["where"],
            registry=registry,
        )

    def limited(self, reason: str) -> None:
        self._limited.labels(reason).inc()

    def checked(self, where: str) -> None:
        """`where` is "shared" or "own"."""
        self._checked.labels(where).inc()
