"""Spans on their way to a collector: a bounded queue, and a thread that sends.

OpenTelemetry's own queue logs while it is full, does not count what it drops, and takes up to 30 s to stop.
Here a collector that is away costs its share of memory (`MAX_QUEUED` spans), one log line when it goes and
one when it is back; requests never wait for it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor
from opentelemetry.sdk.trace.export import SpanExportResult

from adaptive_lora.telemetry.spans import SpanMetrics

_log = logging.getLogger(__name__)

MAX_QUEUED: Final = 4096
"""Spans in memory; some 2 KB each."""
MAX_BATCH: Final = 512
INTERVAL_S: Final = 2.0
TIMEOUT_S: Final = 5.0
"""For one batch, tries included."""

_THEIR_LOG: Final = "opentelemetry.exporter.otlp.proto.http.trace_exporter"


@dataclass(frozen=True, slots=True)
class Collector:
    """Where spans go. `headers` is "name=value,name=value", values percent-encoded, as OTLP's environment
    variable has them."""

    endpoint: str
    """http(s)://host:port; /v1/traces is added."""
    headers: str
    metrics: SpanMetrics

    def exporter(self) -> OTLPSpanExporter:
        pairs = (pair.partition("=") for pair in self.headers.split(",") if pair.strip())
        headers = {name.strip(): unquote(value.strip()) for name, _, value in pairs}
        return OTLPSpanExporter(self.endpoint.rstrip("/") + "/v1/traces", headers=headers, timeout=TIMEOUT_S)


class SpanQueue(SpanProcessor):
    """Takes spans from any thread, never waits, and sends them from one of its own."""

    def __init__(self, collector: Collector) -> None:
        self._endpoint = collector.endpoint
        self._metrics = collector.metrics
        self._exporter = collector.exporter()
        self._complaints = _Complaints()
        logging.getLogger(_THEIR_LOG).addFilter(self._complaints)
        self._queued: deque[ReadableSpan] = deque()
        self._is_up = True
        self._is_closing = threading.Event()
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name="span-export", daemon=True)
        self._thread.start()

    def on_start(self, span: Span, parent_context: Context | None = None) -> None: ...

    def on_end(self, span: ReadableSpan) -> None:
        if len(self._queued) >= MAX_QUEUED or self._is_closing.is_set():
            self._metrics.counted("dropped")
            return
        self._queued.append(span)
        if len(self._queued) >= MAX_BATCH:
            self._wake.set()

    def close(self, timeout_s: float) -> None:
        """Send what is queued, for at most `timeout_s`; what is left then is lost. Blocking."""
        self._is_closing.set()
        self._wake.set()
        if self._is_up:
            self._thread.join(timeout_s)
        self._exporter.shutdown()  # type: ignore[no-untyped-call]  # ends a wait between two tries
        self._metrics.counted("dropped", len(self._queued))
        self._queued.clear()
        logging.getLogger(_THEIR_LOG).removeFilter(self._complaints)

    def shutdown(self) -> None:
        self.close(TIMEOUT_S)

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Wait until the queue has been sent."""
        deadline = time.monotonic() + timeout_millis / 1000
        while self._queued and time.monotonic() < deadline:
            self._wake.set()
            time.sleep(0.01)
        return not self._queued

    def _run(self) -> None:
        while not self._is_closing.is_set():
            self._wake.wait(INTERVAL_S)
            self._wake.clear()
            self._send()
        self._send()  # what came meanwhile

    def _send(self) -> None:
        """Send what is queued now; while the collector is away, one batch."""
        for _ in range(0, len(self._queued), MAX_BATCH):
            batch = [self._queued.popleft() for _ in range(min(MAX_BATCH, len(self._queued)))]
            try:
                is_sent = self._exporter.export(batch) is SpanExportResult.SUCCESS
            except Exception as error:  # whatever it is, it must not end the thread
                self._complaints.last = f"{type(error).__name__}: {error}"
                is_sent = False
            self._metrics.counted("exported" if is_sent else "failed", len(batch))
            self._enter(is_sent)
            if not is_sent:
                return

    def _enter(self, is_up: bool) -> None:
        if is_up and not self._is_up:
            _log.info("traces are sent to %s again", self._endpoint)
        elif not is_up and self._is_up:
            _log.warning("traces cannot be sent to %s: %s", self._endpoint, self._complaints.last)
        self._is_up = is_up
        self._metrics.up.is_up = is_up


class _Complaints(logging.Filter):
    """Keeps what the exporter says about its failures out of the log: it is a line for every batch."""

    def __init__(self) -> None:
        super().__init__()
        self.last = "it does not answer"

    def filter(self, record: logging.LogRecord) -> bool:
        self.last = record.getMessage()
        return False
