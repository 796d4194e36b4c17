"""Traces of requests, as every room sees them: spans of each HTTP request, W3C context in and out.

    POST /generate             the HTTP request
    ├── route                  the router's decision
    └── chat code              one generation
        ├── queue              waiting for the caller's turn, and for a place in the engine's batch
        ├── prefill            until the first token
        └── decode             until the last one

A span holds names, numbers and error codes: never a prompt, an answer, or the message of an error. What is
here imports nothing and costs next to nothing while nobody records; `otlp` records with OpenTelemetry.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextvars import ContextVar, Token
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from adaptive_lora.types import TokenChunk

Value = str | bool | int | float | tuple[str, ...]
Attributes = Mapping[str, Value]

_TRACEPARENT = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-[\x21-\x7e]*)?")
_TRACESTATE = re.compile(rb"[\x20-\x7e]{1,512}")


@dataclass(frozen=True, slots=True)
class Parent:
    """The span of a caller's trace that a request belongs to (W3C Trace Context)."""

    trace_id: str
    """32 hexadecimal digits."""
    span_id: str
    """16 hexadecimal digits."""
    is_sampled: bool
    state: str = ""
    """`tracestate`, as it came."""


def parse_parent(traceparent: bytes, tracestate: bytes = b"") -> Parent | None:
    """None for what the specification calls invalid. Of a later version, what version 00 defines is read."""
    found = _TRACEPARENT.fullmatch(traceparent)
    if found is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    if version == b"ff" or (version == b"00" and more) or not trace_id.strip(b"0") or not span_id.strip(b"0"):
        return None
    state = tracestate.decode() if _TRACESTATE.fullmatch(tracestate) else ""
    return Parent(trace_id.decode(), span_id.decode(), bool(int(flags, 16) & 1), state)


class Span(Protocol):
    """A piece of work with a beginning and an end. Left by an exception, it names its kind."""

    def set(self, attributes: Attributes) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Generation(Protocol):
    """The phases of one generation: `queued` and `admitted` around each wait, `chunk` for each chunk, then
    `end` once."""

    def queued(self) -> None: ...

    def admitted(self) -> None: ...

    def chunk(self, chunk: TokenChunk) -> None: ...

    def end(self, outcome: str, error: BaseException | None = None) -> None:
        """`outcome` is one of `metrics.OUTCOMES`."""
        ...


class _Nothing:
    """A span, and a generation, of a request that nobody records."""

    __slots__ = ()

    def set(self, attributes: Attributes) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def queued(self) -> None: ...

    def admitted(self) -> None: ...

    def chunk(self, chunk: TokenChunk) -> None: ...

    def end(self, outcome: str, error: BaseException | None = None) -> None: ...


NOTHING = _Nothing()


class Trace:
    """One request's part of a trace. This one records nothing: it has ids, for logs and to pass on."""

    __slots__ = ("is_sampled", "span_id", "state", "trace_id")

    def __init__(self, trace_id: str, span_id: str, *, is_sampled: bool, state: str = "") -> None:
        self.trace_id = trace_id
        self.span_id = span_id
        self.is_sampled = is_sampled
        self.state = state

    def span(self, name: str, attributes: Attributes | None = None) -> Span:
        return NOTHING

    def generation(self, request_id: str, describe: Callable[[], tuple[str, Attributes]]) -> Generation:
        return NOTHING

    def running(self, request_id: str) -> Generation:
        """The generation with this id, as `generation` began it."""
        return NOTHING

    def headers(self, request_id: str) -> dict[str, str]:
        """W3C headers for whom the generation is handed to."""
        return w3c_headers(self.trace_id, self.span_id, self.is_sampled, self.state)

    def end(self, name: str, attributes: Attributes, *, error: str | None = None) -> None:
        """The request has been answered. `name` is the span's; `error` what went wrong on our side."""


class Traces:
    """Begins each request's trace. This one records nothing: a caller's trace is passed on if it is to be
    continued."""

    def __init__(self, *, continues: bool) -> None:
        """`continues`: a request belongs to the trace that its caller names. Only for callers who are
        trusted with that: they choose its id, and whether it is recorded."""
        self.continues = continues

    def begin(self, method: str, parent: Parent | None) -> Trace | None:
        """None: the request belongs to no trace."""
        if parent is None or not self.continues:
            return None
        return Trace(parent.trace_id, parent.span_id, is_sampled=parent.is_sampled, state=parent.state)

    def close(self, timeout_s: float) -> None:
        """Send what has been recorded, for at most `timeout_s`. Blocking."""


_current: ContextVar[Trace | None] = ContextVar("trace", default=None)


def current() -> Trace | None:
    """The trace of the request that the current task serves."""
    return _current.get()


def enter(trace: Trace | None) -> Token[Trace | None]:
    """From now on, and in tasks made from here, it is the current one."""
    return _current.set(trace)


def leave(token: Token[Trace | None]) -> None:
    _current.reset(token)


def span(name: str, attributes: Attributes | None = None) -> Span:
    """A span of the current request, for a `with` statement."""
    trace = _current.get()
    return NOTHING if trace is None else trace.span(name, attributes)


def generation(request_id: str, describe: Callable[[], tuple[str, Attributes]]) -> Generation:
    """Begin a generation of the current request. `describe` gives its name and attributes, if it is
    recorded."""
    trace = _current.get()
    return NOTHING if trace is None else trace.generation(request_id, describe)


def running(request_id: str) -> Generation:
    """The current request's generation with this id."""
    trace = _current.get()
    return NOTHING if trace is None else trace.running(request_id)


def outgoing(request_id: str) -> dict[str, str]:
    """Headers that pass the current trace on, empty without one."""
    trace = _current.get()
    return {} if trace is None else trace.headers(request_id)


def w3c_headers(trace_id: str, span_id: str, is_sampled: bool, state: str) -> dict[str, str]:
    """`traceparent`, and `tracestate` if there is any."""
    headers = {"traceparent": f"00-{trace_id}-{span_id}-{'01' if is_sampled else '00'}"}
    return headers | {"tracestate": state} if state else headers
