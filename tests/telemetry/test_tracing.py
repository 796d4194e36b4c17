from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from adaptive_lora.telemetry import tracing
from adaptive_lora.telemetry.tracing import NOTHING, Parent, Trace, Traces, parse_parent

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.fixture
def current() -> Iterator[Trace]:
    trace = Trace(TRACE, SPAN, is_sampled=True, state="vendor=1")
    token = tracing.enter(trace)
    yield trace
    tracing.leave(token)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (f"00-{TRACE}-{SPAN}-01", Parent(TRACE, SPAN, True)),
        (f"00-{TRACE}-{SPAN}-00", Parent(TRACE, SPAN, False)),
        (f"00-{TRACE}-{SPAN}-03", Parent(TRACE, SPAN, True)),
        (f"cc-{TRACE}-{SPAN}-01-what-comes-later", Parent(TRACE, SPAN, True)),
        (f"00-{TRACE}-{SPAN}-01-more", None),
        (f"ff-{TRACE}-{SPAN}-01", None),
        (f"00-{'0' * 32}-{SPAN}-01", None),
        (f"00-{TRACE}-{'0' * 16}-01", None),
        (f"00-{TRACE.upper()}-{SPAN}-01", None),
        (f"00-{TRACE}-{SPAN}", None),
        (f"00-{TRACE}-{SPAN}-01\n", None),
        (f"00-{TRACE}-{SPAN}-01\r\nx: y", None),
        ("", None),
        ("x" * 100_000, None),
    ],
)
def test_a_callers_span_is_read_as_w3c_says(header: str, expected: Parent | None) -> None:
    assert parse_parent(header.encode()) == expected


@pytest.mark.parametrize(
    ("tracestate", "kept"), [(b"a=1,b=2", "a=1,b=2"), (b"a=\xff", ""), (b"a=1\r\nx: y", ""), (b"a" * 513, "")]
)
def test_tracestate_is_passed_on_if_it_is_one(tracestate: bytes, kept: str) -> None:
    parent = parse_parent(f"00-{TRACE}-{SPAN}-01".encode(), tracestate)
    assert parent is not None
    assert parent.state == kept


def test_without_a_trace_everything_is_nothing() -> None:
    def describe() -> tuple[str, tracing.Attributes]:
        raise AssertionError("nobody records it")

    assert tracing.span("route") is NOTHING
    assert tracing.generation("req-1", describe) is NOTHING
    assert tracing.running("req-1") is NOTHING
    assert tracing.outgoing("req-1") == {}


def test_a_trace_that_is_not_recorded_is_passed_on(current: Trace) -> None:
    assert tracing.span("route") is NOTHING
    assert tracing.outgoing("req-1") == {"traceparent": f"00-{TRACE}-{SPAN}-01", "tracestate": "vendor=1"}


def test_without_export_a_trace_is_passed_on_only_where_callers_are_trusted() -> None:
    parent = Parent(TRACE, SPAN, True, "vendor=1")
    assert Traces(continues=False).begin("GET", parent) is None
    assert Traces(continues=True).begin("GET", None) is None
    trace = Traces(continues=True).begin("GET", parent)
    assert trace is not None
    assert (trace.trace_id, trace.span_id) == (TRACE, SPAN)


def test_a_server_without_tracing_imports_no_opentelemetry() -> None:
    code = (
        "import sys\n"
        "from adaptive_lora.serving.api import create_app\n"
        "from adaptive_lora.settings import Settings\n"
        "create_app(Settings.model_validate({'model': {'engine': 'fake'}}))\n"
        "print([name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout == "[]\n"
