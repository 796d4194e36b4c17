"""Records traces with OpenTelemetry. The only module that imports it; imported only where tracing is on.

Attributes have the names of OpenTelemetry's semantic conventions (HTTP, GenAI) where those fit; ours begin
with `adaptive_lora.`.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

from opentelemetry import trace as api
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanLimits, TracerProvider
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

from adaptive_lora import __version__
from adaptive_lora.errors import AdaptiveLoraError
from adaptive_lora.telemetry.span_export import Collector, SpanQueue
from adaptive_lora.telemetry.tracing import (
    NOTHING,
    Attributes,
    Generation,
    Parent,
    Span,
    Trace,
    Traces,
    w3c_headers,
)
from adaptive_lora.types import TokenChunk

MAX_ATTRIBUTE_CHARS: Final = 256
_EMPTY: Final = Context()
_ABORTED = (asyncio.CancelledError, GeneratorExit)


class RecordedTraces(Traces):
    """Traces of which a share is sent to a collector."""

    def __init__(
        self, collector: Collector, *, service_name: str, sample_ratio: float, continues: bool
    ) -> None:
        super().__init__(continues=continues)
        resource = Resource.create(
            {
                "service.name": service_name,
                "service.version": __version__,
                "service.instance.id": uuid.uuid4().hex,
            }
        )
        self._queue = SpanQueue(collector)
        self._provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(sample_ratio)),
            resource=resource,
            shutdown_on_exit=False,
            span_limits=SpanLimits(max_attribute_length=MAX_ATTRIBUTE_CHARS),
        )
        self._provider.add_span_processor(self._queue)
        self._tracer = self._provider.get_tracer("adaptive_lora", __version__)

    def begin(self, method: str, parent: Parent | None) -> Trace:
        """Whoever must not continue his trace here finds it as a link of ours."""
        context, links = _EMPTY, []
        if parent is not None:
            caller = _context_of(parent)
            if self.continues:
                context = api.set_span_in_context(api.NonRecordingSpan(caller), _EMPTY)
            else:
                links = [api.Link(caller)]
        root = self._tracer.start_span(method, context, kind=api.SpanKind.SERVER, links=links)
        own = root.get_span_context()
        ids = f"{own.trace_id:032x}", f"{own.span_id:016x}"
        state = own.trace_state.to_header() if own.trace_state else ""
        if not root.is_recording():
            return Trace(*ids, is_sampled=False, state=state)
        return RecordedTrace(self._tracer, root, *ids, state)

    def close(self, timeout_s: float) -> None:
        self._queue.close(timeout_s)


class RecordedTrace(Trace):
    """The spans of one request, until its root ends."""

    __slots__ = ("_context", "_generations", "_root", "_tracer")

    def __init__(self, tracer: api.Tracer, root: api.Span, trace_id: str, span_id: str, state: str) -> None:
        super().__init__(trace_id, span_id, is_sampled=True, state=state)
        self._tracer = tracer
        self._root = root
        self._context = api.set_span_in_context(root, _EMPTY)
        self._generations: dict[str, _Generation] = {}

    def span(self, name: str, attributes: Attributes | None = None) -> Span:
        return _Span(self._tracer.start_span(name, self._context, attributes=attributes))

    def generation(self, request_id: str, describe: Callable[[], tuple[str, Attributes]]) -> Generation:
        name, attributes = describe()
        whole = self._tracer.start_span(name, self._context, attributes=attributes)
        begun = self._generations[request_id] = _Generation(self._tracer, whole)
        return begun

    def running(self, request_id: str) -> Generation:
        return self._generations.get(request_id, NOTHING)

    def headers(self, request_id: str) -> dict[str, str]:
        begun = self._generations.get(request_id)
        span_id = self.span_id if begun is None else f"{begun.span_id:016x}"
        return w3c_headers(self.trace_id, span_id, True, self.state)

    def end(self, name: str, attributes: Attributes, *, error: str | None = None) -> None:
        self._root.update_name(name)
        self._root.set_attributes(attributes)
        if error is not None:
            self._root.set_attribute("error.type", error)
            self._root.set_status(api.StatusCode.ERROR)
        self._root.end()


class _Span:
    __slots__ = ("_span",)

    def __init__(self, span: api.Span) -> None:
        self._span = span

    def set(self, attributes: Attributes) -> None:
        self._span.set_attributes(attributes)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _mark(self._span, error)
        self._span.end()


class _Generation:
    """Notes when each phase began; the spans of the phases are made at the end."""

    def __init__(self, tracer: api.Tracer, whole: api.Span) -> None:
        self._tracer = tracer
        self._whole = whole
        self._phases: list[tuple[str, int]] = [("prefill", time.time_ns())]  # nanoseconds of the epoch
        self._n_prompt_tokens = 0
        self._n_tokens = 0
        self._finish_reasons: dict[int, str] = {}

    @property
    def span_id(self) -> int:
        return self._whole.get_span_context().span_id

    def queued(self) -> None:
        _, began = self._phases.pop()  # it waits on, or once more: nothing has been computed
        if not self._phases:
            self._phases.append(("queue", began))

    def admitted(self) -> None:
        self._phases.append(("prefill", time.time_ns()))

    def chunk(self, chunk: TokenChunk) -> None:
        if self._phases[-1][0] != "decode":
            self._phases.append(("decode", time.time_ns()))
            self._n_prompt_tokens = chunk.n_prompt_tokens
        self._n_tokens += chunk.n_tokens
        if chunk.finish_reason is not None:
            self._finish_reasons[chunk.index] = chunk.finish_reason

    def end(self, outcome: str, error: BaseException | None = None) -> None:
        ended = time.time_ns()
        context = api.set_span_in_context(self._whole, _EMPTY)
        for i, (name, began) in enumerate(self._phases):
            is_last = i + 1 == len(self._phases)
            phase = self._tracer.start_span(name, context, start_time=began)
            if is_last:
                _mark(phase, error)
            phase.end(ended if is_last else self._phases[i + 1][1])
        self._whole.set_attributes(
            {
                "gen_ai.usage.input_tokens": self._n_prompt_tokens,
                "gen_ai.usage.output_tokens": self._n_tokens,
                "gen_ai.response.finish_reasons": tuple(
                    reason for _, reason in sorted(self._finish_reasons.items())
                ),
                "adaptive_lora.outcome": outcome,
            }
        )
        _mark(self._whole, error)
        self._whole.end(ended)


def _mark(span: api.Span, error: BaseException | None) -> None:
    """Say what kind of failure it was; messages and stacks stay out."""
    if error is None or isinstance(error, _ABORTED):
        return
    kind = error.code if isinstance(error, AdaptiveLoraError) else type(error).__name__
    span.set_attribute("error.type", kind)
    span.set_status(api.StatusCode.ERROR)


def _context_of(parent: Parent) -> api.SpanContext:
    flags = api.TraceFlags.SAMPLED if parent.is_sampled else api.TraceFlags.DEFAULT
    return api.SpanContext(
        int(parent.trace_id, 16),
        int(parent.span_id, 16),
        is_remote=True,
        trace_flags=api.TraceFlags(flags),
        trace_state=api.TraceState.from_header([parent.state]) if parent.state else None,
    )
