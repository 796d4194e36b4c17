"""A collector that is slow, away, or refuses: nobody waits, memory is bounded, one line per change."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from adaptive_lora.errors import EngineDead
from adaptive_lora.telemetry import span_export
from adaptive_lora.telemetry.otlp import RecordedTraces
from adaptive_lora.telemetry.span_export import MAX_QUEUED, Collector
from adaptive_lora.telemetry.spans import SpanMetrics
from adaptive_lora.telemetry.tracing import Trace
from adaptive_lora.types import TokenChunk
from tests.ports import free_port
from tests.telemetry.otlp_receiver import receiver

Metered = tuple[RecordedTraces, SpanMetrics]


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(span_export, "INTERVAL_S", 0.02)
    monkeypatch.setattr(span_export, "TIMEOUT_S", 0.3)


@contextmanager
def recording(endpoint: str, *, timeout_s: float = 5.0) -> Iterator[Metered]:
    metrics = SpanMetrics()
    traces = RecordedTraces(
        Collector(endpoint, "", metrics), service_name="test", sample_ratio=1, continues=False
    )
    try:
        yield traces, metrics
    finally:
        traces.close(timeout_s)


def count(metrics: SpanMetrics, outcome: str) -> int:
    return int(metrics._spans.labels(outcome)._value.get())


def end(traces: RecordedTraces, n: int = 1) -> None:
    for _ in range(n):
        trace = traces.begin("GET", None)
        trace.end("GET /x", {})


async def until_counted(metrics: SpanMetrics, outcome: str, n: int) -> None:
    async with asyncio.timeout(30):
        while count(metrics, outcome) < n:  # noqa: ASYNC110 - a thread counts
            await asyncio.sleep(0.01)


def test_what_is_left_is_sent_at_the_end() -> None:
    with receiver() as received:
        with recording(received.url) as (traces, metrics):
            end(traces, 1200)
        assert len(received.spans) == 1200
        assert count(metrics, "exported") == 1200
        assert metrics.up.is_up is True


async def test_a_collector_that_is_away_and_comes_back_is_two_lines(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    port = free_port()
    with recording(f"http://127.0.0.1:{port}") as (traces, metrics):
        for n in range(1, 4):
            end(traces)
            await until_counted(metrics, "failed", n)
        assert metrics.up.is_up is False
        with receiver(port) as received:
            end(traces, 2)
            await until_counted(metrics, "exported", 2)
            assert len(received.spans) == 2
    lines = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert [level for level, _ in lines] == ["WARNING", "INFO"], lines
    assert f"traces cannot be sent to http://127.0.0.1:{port}" in lines[0][1]
    assert "again" in lines[1][1]
    assert not any(record.exc_info for record in caplog.records)


async def test_a_collector_that_refuses_is_named_once(caplog: pytest.LogCaptureFixture) -> None:
    with receiver() as received:
        received.status = 401
        with recording(received.url) as (traces, metrics):
            for n in range(1, 4):
                end(traces)
                await until_counted(metrics, "failed", n)
    (line,) = caplog.records
    assert "401" in line.getMessage()


def test_while_a_collector_hangs_spans_are_bounded_and_nobody_waits() -> None:
    with receiver() as received:
        received.gate.clear()
        with recording(received.url, timeout_s=0.1) as (traces, metrics):
            end(traces, 3 * MAX_QUEUED)
            assert len(traces._queue._queued) <= MAX_QUEUED
            assert count(metrics, "dropped") >= MAX_QUEUED
        assert not traces._queue._queued
        assert count(metrics, "exported") == 0


def test_after_the_end_nothing_is_kept() -> None:
    with receiver() as received:
        with recording(received.url) as (traces, metrics):
            pass
        end(traces)
        assert count(metrics, "dropped") == 1
        assert not received.spans


def test_phases_follow_each_other_and_failures_name_their_kind() -> None:
    with receiver() as received:
        with recording(received.url) as (traces, _):
            trace = traces.begin("POST", None)
            generation(trace, "whole", 2)
            generation(trace, "first only", 0, EngineDead("secret"))
            waiting = trace.generation("waits", lambda: ("chat waits", {}))
            waiting.queued()
            waiting.end("aborted", asyncio.CancelledError())
            trace.end("POST /generate", {})
        assert b"secret" not in b"".join(received.raw)
        phases = {
            whole.name: [span for span in received.spans if span.parent_id == whole.span_id]
            for whole in received.spans
            if whole.name.startswith("chat")
        }
        assert [span.name for span in phases["chat whole"]] == ["queue", "prefill", "decode"]
        assert [span.name for span in phases["chat first only"]] == ["queue", "prefill"]
        assert [span.name for span in phases["chat waits"]] == ["queue"]
        for name, spans in phases.items():
            (whole,) = received.named(name)
            moments = [moment for span in spans for moment in (span.start_ns, span.end_ns)]
            assert moments == sorted(moments)
            assert whole.start_ns <= moments[0]
            assert whole.end_ns == moments[-1]
        (whole,) = received.named("chat whole")
        assert whole.attributes["gen_ai.usage.input_tokens"] == 7
        assert whole.attributes["gen_ai.usage.output_tokens"] == 4
        assert whole.attributes["gen_ai.response.finish_reasons"] == ["stop"]
        (failed,) = received.named("chat first only")
        assert failed.is_error
        assert failed.attributes["error.type"] == "engine_dead"
        assert phases["chat first only"][-1].attributes["error.type"] == "engine_dead"
        (aborted,) = received.named("chat waits")
        assert not aborted.is_error
        assert aborted.attributes["adaptive_lora.outcome"] == "aborted"


def generation(trace: Trace, name: str, n_chunks: int, error: BaseException | None = None) -> None:
    begun = trace.generation(name, lambda: (f"chat {name}", {}))
    assert trace.running(name) is begun
    assert trace.headers(name) != trace.headers("another")
    for _ in range(2):  # for its turn, and for the engine
        begun.queued()
        begun.admitted()
    for i in range(n_chunks):
        begun.chunk(TokenChunk(0, "secret", 2, 7, finish_reason="stop" if i + 1 == n_chunks else None))
    begun.end("error" if error else "done", error)
