"""Metrics of the answer cache. No label tells a tenant from another."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge


class CacheMetrics:
    """What the cache reports. In a registry of its own unless one is given."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        registry = registry or CollectorRegistry()
        self._requests = Counter(
            "cache_requests",
            "Generations asked for, by where the answer came from: hit, shared, miss, bypass",
            ["result"],
            registry=registry,
        )
        self._saved_tokens = Counter(
            "cache_saved_tokens", "Tokens answered without generating them", registry=registry
        )
        self._writes = Counter(
            "cache_writes",
            "Complete answers: kept, too_large, or unavailable (Redis is away)",
            ["outcome"],
            registry=registry,
        )
        self._unreadable = Counter(
            "cache_unreadable",
            "Kept values that were damaged, of another version, or forged: read as absent",
            registry=registry,
        )
        self._evictions = Counter(
            "cache_evictions", "Answers that left this process's memory for want of room", registry=registry
        )
        self._bytes = Gauge("cache_bytes", "Answers kept in this process, in bytes", registry=registry)
        self._entries = Gauge("cache_entries", "Answers kept in this process", registry=registry)

    def requested(self, result: str, *, saved_tokens: int = 0) -> None:
        """`result` is "hit", "shared", "miss" or "bypass"."""
        self._requests.labels(result).inc()
        self._saved_tokens.inc(saved_tokens)

    def written(self, outcome: str) -> None:
        """`outcome` is "kept", "too_large" or "unavailable"."""
        self._writes.labels(outcome).inc()

    def unreadable(self) -> None:
        self._unreadable.inc()

    def evicted(self) -> None:
        self._evictions.inc()

    def watch(self, *, n_bytes: Callable[[], float], n_entries: Callable[[], float]) -> None:
        """Read the gauges from the store, when the page is asked for."""
        self._bytes.set_function(n_bytes)
        self._entries.set_function(n_entries)
