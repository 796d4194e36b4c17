"""Prometheus metrics, in a registry of their own. `docs/reference/metrics.md` lists them.

Labels are few and bounded: route templates (never paths), agents of the fleet (never the caller's words),
outcomes.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable
from functools import cache
from typing import TypeVar

from prometheus_client import (
    CollectorRegistry,
    Counter,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from adaptive_lora.telemetry.adapters import AdapterMetrics
from adaptive_lora.telemetry.backup import BackupGauge
from adaptive_lora.telemetry.batches import BatchMetrics
from adaptive_lora.telemetry.cache import CacheMetrics
from adaptive_lora.telemetry.compositions import CompositionMetrics
from adaptive_lora.telemetry.limits import LimitMetrics
from adaptive_lora.telemetry.queue import QueueMetrics
from adaptive_lora.telemetry.redis import RedisMetrics
from adaptive_lora.telemetry.spans import SpanMetrics
from adaptive_lora.telemetry.state import StateGauges
from adaptive_lora.types import EngineStats, RouteDecision, TokenChunk

disable_created_metrics()  # type: ignore[no-untyped-call]  # one more series per series, which nobody reads

M = TypeVar("M", Counter, Histogram)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

REQUEST_SECONDS = (
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.0,
    3.5,
    5.0,
    10.0,
    20.0,
    40.0,
    80.0,
    160.0,
    300.0,
)
TTFT_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.15, 0.3, 0.6, 1.2, 2.5)
OUTCOMES = ("done", "error", "aborted")
ROUTING_SECONDS = (0.0005, 0.001, 0.002, 0.004, 0.006, 0.01, 0.02, 0.05, 0.1)


class EngineGauges(Collector):
    """The engine's last snapshot. A value that this machine cannot know is absent, not 0 and not NaN."""

    def __init__(self) -> None:
        self.stats: EngineStats | None = None
        self.ready = False

    def collect(self) -> Iterable[Metric]:
        yield GaugeMetricFamily("adaptive_lora_ready", "1 when requests are served", value=float(self.ready))
        stats = self.stats
        if stats is None:
            return
        yield GaugeMetricFamily(
            "lora_active_adapters", "Adapters loaded into the engine", value=stats.loaded_adapters
        )
        yield GaugeMetricFamily(
            "lora_queue_size", "Requests waiting: for the engine, and in it", value=stats.waiting
        )
        yield GaugeMetricFamily(
            "lora_running_requests", "Requests running in the engine", value=stats.running
        )
        if stats.kv_cache_usage is not None:
            yield GaugeMetricFamily(
                "lora_kv_cache_usage", "Share of the KV cache in use, 0..1", value=stats.kv_cache_usage
            )
        if stats.gpu_memory_usage is not None:
            yield GaugeMetricFamily(
                "lora_gpu_memory_usage", "Share of GPU memory in use, 0..1", value=stats.gpu_memory_usage
            )
        if stats.n_preemptions is not None:
            yield CounterMetricFamily(
                "lora_preemptions",
                "Requests put back into the queue for want of KV cache, to be computed again",
                value=stats.n_preemptions,
            )
        if stats.workers is not None:
            workers = GaugeMetricFamily(
                "lora_workers", "Workers of the pool: usable, or away (their canary failed)", labels=["state"]
            )
            for state, n_workers in stats.workers.items():
                workers.add_metric([state], n_workers)
            yield workers


class Metrics:
    """All metrics of one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.engine = EngineGauges()
        self.registry.register(self.engine)
        self.state = StateGauges()
        self.registry.register(self.state)
        self.adapters = AdapterMetrics(self.registry)
        self.compositions = CompositionMetrics()
        self.registry.register(self.compositions)
        self.backup = BackupGauge()
        self.registry.register(self.backup)
        self.batches = BatchMetrics(self.registry)
        self.cache = CacheMetrics(self.registry)
        self.limits = LimitMetrics(self.registry)
        self.queue = QueueMetrics(self.registry)
        self.redis = RedisMetrics(self.registry)
        self.spans = SpanMetrics(self.registry)
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self._requests = _series(
            Counter(
                "api_requests",
                "Requests by outcome: success, error (status 400 and above, or a broken stream), aborted",
                ["route", "status", "code"],
                registry=self.registry,
            )
        )
        self._latency = _series(
            Histogram(
                "api_request_latency_seconds",
                "From the request's arrival to the last byte of its answer",
                ["route"],
                buckets=REQUEST_SECONDS,
                registry=self.registry,
            )
        )
        self._decisions = _series(
            Counter("router_decisions", "Routing decisions", ["agent", "reason"], registry=self.registry)
        )
        self._routing = Histogram(
            "router_latency_seconds", "Time to decide", buckets=ROUTING_SECONDS, registry=self.registry
        )
        self._agent_requests = _series(
            Counter(
                "lora_requests",
                "Generations by agent and outcome: done, error, aborted",
                ["agent", "outcome"],
                registry=self.registry,
            )
        )
        self._version_requests = Counter(
            "lora_version_requests",
            "Generations by agent, version and outcome: a canary beside what it may replace",
            ["agent", "version", "outcome"],
            registry=self.registry,
        )
        self._version_series = cache(self._version_requests.labels)
        self._agent_errors = _series(
            Counter(
                "lora_request_errors",
                "Failed generations by error code",
                ["agent", "code"],
                registry=self.registry,
            )
        )
        self._ttft = _series(
            Histogram(
                "lora_time_to_first_token_seconds",
                "From the decision to the first token, queue included",
                ["agent"],
                buckets=TTFT_SECONDS,
                registry=self.registry,
            )
        )
        self._itl = _series(
            Histogram(
                "lora_inter_token_latency_seconds",
                "Time per token after the first one of a choice",
                ["agent"],
                buckets=TOKEN_SECONDS,
                registry=self.registry,
            )
        )
        self._prompt_tokens = _series(
            Counter("lora_prompt_tokens", "Tokens of prompts", ["agent"], registry=self.registry)
        )
        self._completion_tokens = _series(
            Counter("lora_completion_tokens", "Tokens generated", ["agent"], registry=self.registry)
        )

    def request(self, *, route: str, status: str, code: int, seconds: float) -> None:
        """Count one HTTP request. `route` is a template; `status` success, error or aborted."""
        self._requests(route, status, str(code)).inc()
        self._latency(route).observe(seconds)

    def routed(self, decision: RouteDecision, *, seconds: float) -> None:
        """Count one decision of the router; an abstention is the reason "abstained"."""
        self._decisions(decision.agent, decision.reason).inc()
        self._routing.observe(seconds)

    def meter(self, agent: str, version: str, *, started: float) -> AgentMeter:
        """Meter one generation. `started` is on `time.perf_counter`'s clock."""
        return AgentMeter(self, agent, version, started)

    def forget_version(self, agent: str, version: str) -> None:
        """Drop the series of a version that is no longer served, so that their number stays bounded."""
        for outcome in OUTCOMES:
            with contextlib.suppress(KeyError):
                self._version_requests.remove(agent, version, outcome)
        self._version_series.cache_clear()

    def render(self) -> bytes:
        """The exposition in Prometheus' text format."""
        return generate_latest(self.registry)


def _series(metric: M) -> Callable[..., M]:
    """From label values to the metric's series, which are few: looking one up costs more than counting."""
    return cache(metric.labels)


class AgentMeter:
    """One generation of one agent: call `chunk` for each chunk, then `end` exactly once."""

    __slots__ = ("_agent", "_first", "_itl", "_last", "_metrics", "_n_tokens", "_started", "_version")

    def __init__(self, metrics: Metrics, agent: str, version: str, started: float) -> None:
        self._metrics = metrics
        self._agent = agent
        self._version = version
        self._started = started
        self._first = True
        self._n_tokens = 0
        self._last: dict[int, float] = {}
        self._itl = metrics._itl(agent)

    def chunk(self, chunk: TokenChunk) -> None:
        now = time.perf_counter()
        if self._first:
            self._first = False
            self._metrics._ttft(self._agent).observe(now - self._started)
            self._metrics._prompt_tokens(self._agent).inc(chunk.n_prompt_tokens)
        n_tokens = chunk.n_tokens
        if not n_tokens:
            return
        self._n_tokens += n_tokens
        last = self._last.get(chunk.index)
        if last is not None:
            per_token = (now - last) / n_tokens
            for _ in range(n_tokens):
                self._itl.observe(per_token)
        self._last[chunk.index] = now

    def error(self, code: str) -> None:
        self._metrics._agent_errors(self._agent, code).inc()

    def end(self, outcome: str) -> None:
        """`outcome` is one of OUTCOMES."""
        self._metrics._agent_requests(self._agent, outcome).inc()
        self._metrics._version_series(self._agent, self._version, outcome).inc()
        if self._n_tokens:
            self._metrics._completion_tokens(self._agent).inc(self._n_tokens)
