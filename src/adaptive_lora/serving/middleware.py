"""Pure-ASGI middleware around every request, from the outside in: `Accounting`, `HostCheck`, `Intake`,
`Admission`.

Plain ASGI and not Starlette's BaseHTTPMiddleware: no task and no queue per request, and streams pass
untouched.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Collection, Sequence

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from adaptive_lora.errors import AdaptiveLoraError, Overloaded, ShuttingDown
from adaptive_lora.serving import record
from adaptive_lora.serving.context import RequestContext, context_of, new_context
from adaptive_lora.serving.drain import Drain
from adaptive_lora.serving.errors import error_response, response_of
from adaptive_lora.serving.limits import MAX_ARRIVING_BYTES
from adaptive_lora.telemetry import tracing
from adaptive_lora.telemetry.logging import request_id_var
from adaptive_lora.telemetry.metrics import Metrics
from adaptive_lora.telemetry.prompts import PromptLog, prompts_var
from adaptive_lora.telemetry.tracing import Trace, Traces

_log = logging.getLogger(__name__)
_access = logging.getLogger("adaptive_lora.access")

PROBES = frozenset({"/live", "/ready", "/health", "/metrics"})
"""Always admitted, and not counted: they would hide the figures of real requests."""


class Accounting:
    """Gives each request an id and a trace, its response the headers, and each end a metric and a log line.
    Catches what nobody else caught."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        metrics: Metrics,
        drain: Drain,
        traces: Traces,
        prompts: PromptLog,
        probes: frozenset[str] = PROBES,
    ) -> None:
        self._app = app
        self._probes = probes
        self._metrics = metrics
        self._drain = drain
        self._traces = traces
        self._prompts = prompts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        context = new_context(scope)
        is_probe = scope["path"] in self._probes
        trace = None if is_probe else self._traces.begin(record.method_of(scope), context.parent)
        request_id = request_id_var.set(context.request_id)
        current = tracing.enter(trace)
        prompts = prompts_var.set(None if self._prompts.mode == "none" else [])

        async def send_named(message: Message) -> None:
            if message["type"] == "http.response.start":
                context.status = message["status"]
                message["headers"] = [*message.get("headers", ()), *context.headers()]
                if self._drain.leaving.is_set():
                    message["headers"].append((b"connection", b"close"))
            elif not message.get("more_body", False):
                context.finished = True
            await send(message)

        try:
            await self._app(scope, receive, send_named)
        except Exception as error:
            _log.exception("unhandled error")
            context.failed = True
            if context.status is None:
                await response_of(error, context.request_id)(scope, receive, send_named)
        finally:
            self._account(scope, context, trace)
            prompts_var.reset(prompts)
            tracing.leave(current)
            request_id_var.reset(request_id)

    def _account(self, scope: Scope, context: RequestContext, trace: Trace | None) -> None:
        end = record.ended(scope, context)
        if end.route in self._probes:
            return
        self._metrics.request(route=end.route, status=end.outcome, code=end.code, seconds=end.seconds)
        if _access.isEnabledFor(logging.INFO):
            fields = record.log_fields(end, context) | self._prompts.fields(prompts_var.get() or ())
            parent = context.parent
            if parent is not None and (trace is None or trace.trace_id != parent.trace_id):
                fields["client_trace_id"] = parent.trace_id
            _access.info("%s %s %d", end.method, end.route, end.code, extra=fields)
        if trace is not None:
            attributes = record.span_attributes(end, context, scope)
            trace.end(record.span_name(end), attributes, error=record.span_error(end, context))


class HostCheck:
    """Refuses a Host header that is malformed, or that names a host which this server is not.

    The second keeps web pages from reaching a server on localhost through a name of their own (DNS
    rebinding).
    """

    _HOST = re.compile(rb"(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,252}))(?::([0-9]{1,5}))?")

    def __init__(self, app: ASGIApp, *, allowed: Sequence[str]) -> None:
        self._app = app
        self._allowed = frozenset(name.lower().encode() for name in allowed)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            hosts = [value for name, value in scope["headers"] if name == b"host"]
            found = self._HOST.fullmatch(hosts[0]) if len(hosts) == 1 else None
            request_id = context_of(scope).request_id
            if found is None:
                refusal = error_response(400, "invalid_request", "the Host header is malformed", request_id)
                await refusal(scope, receive, send)
                return
            if self._allowed and found[1].lower() not in self._allowed:
                message = (
                    "this server does not answer for that host name; api.allowed_hosts lists those it does"
                )
                await error_response(421, "wrong_host", message, request_id)(scope, receive, send)
                return
        await self._app(scope, receive, send)


class Admission:
    """At most `limit` requests at a time, and none once the server is `drain`ed: the others are told at once
    to come back. Who is inside then may finish, or is told that it could not."""

    def __init__(self, app: ASGIApp, *, limit: int, drain: Drain, probes: frozenset[str] = PROBES) -> None:
        self._app = app
        self._probes = probes
        self._limit = limit
        self._drain = drain
        self._n_inside = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in self._probes:
            await self._app(scope, receive, send)
            return
        context = context_of(scope)
        refusal: AdaptiveLoraError | None = None
        if self._drain.is_closed:
            refusal = ShuttingDown("the server is shutting down: try again")
        elif self._n_inside >= self._limit:
            refusal = Overloaded(f"{self._limit} requests are in flight, which is the limit: try again")
        if refusal is not None:
            await response_of(refusal, context.request_id)(scope, receive, send)
            return
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("an ASGI application runs in a task")
        self._n_inside += 1
        try:
            with self._drain.inside(task, context):
                await self._app(scope, receive, send)
        except asyncio.CancelledError:
            if context.interruption is None or task.uncancel() > 0:
                raise
            if context.status is None:
                await response_of(context.interruption, context.request_id)(scope, receive, send)
        finally:
            self._n_inside -= 1


class Intake:
    """Reads the body, bounded in size and time; then watches the client, and cancels the work when it goes
    away."""

    def __init__(
        self, app: ASGIApp, *, max_body_bytes: int, read_timeout_s: float, streamed: Collection[str] = ()
    ) -> None:
        """`streamed` are the paths whose endpoints read their bodies, and bound them, themselves."""
        self._app = app
        self._streamed = frozenset(streamed)
        self._max_body_bytes = max_body_bytes
        self._read_timeout_s = read_timeout_s
        self._max_arriving_bytes = max(MAX_ARRIVING_BYTES, max_body_bytes)
        self._n_arriving_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_read_here = scope["type"] == "http" and scope["path"] not in self._streamed
        if not is_read_here or scope["method"] in ("GET", "HEAD", "OPTIONS"):
            await self._app(scope, receive, send)
            return
        context = context_of(scope)
        try:
            async with asyncio.timeout(self._read_timeout_s):
                body = await self._read(scope, receive)
        except TimeoutError:
            message = f"the body did not arrive within {self._read_timeout_s:g} s"
            await self._refuse(408, "request_timeout", message, scope, receive, send)
            return
        except _ClientGone:
            context.aborted = True
            return
        except Overloaded as error:
            await response_of(error, context.request_id)(scope, receive, send)
            return
        if body is None:
            message = f"the body is larger than {self._max_body_bytes} bytes (api.max_body_bytes)"
            await self._refuse(413, "body_too_large", message, scope, receive, send)
            return
        await self._run(body, context, scope, receive, send)

    async def _read(self, scope: Scope, receive: Receive) -> bytes | None:
        """The body; None if it is too large. Raises Overloaded if too much is arriving from all callers."""
        declared = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        if not declared.isdigit() or int(declared[:20]) > self._max_body_bytes:
            return None
        pieces: list[bytes] = []
        n_bytes = 0
        try:
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise _ClientGone
                piece = message.get("body", b"")
                n_bytes += len(piece)
                self._n_arriving_bytes += len(piece)
                if n_bytes > self._max_body_bytes:
                    return None
                if self._n_arriving_bytes > self._max_arriving_bytes:
                    raise Overloaded("more is arriving than this server can hold: try again")
                pieces.append(piece)
                if not message.get("more_body", False):
                    return b"".join(pieces)
        finally:
            self._n_arriving_bytes -= n_bytes

    async def _run(
        self, body: bytes, context: RequestContext, scope: Scope, receive: Receive, send: Send
    ) -> None:
        gone = asyncio.Event()
        unread: bytes | None = body

        async def replay() -> Message:
            nonlocal unread
            if unread is not None:
                piece, unread = unread, None
                return {"type": "http.request", "body": piece, "more_body": False}
            await gone.wait()
            return {"type": "http.disconnect"}

        work = asyncio.current_task()
        if work is None:
            raise RuntimeError("an ASGI application runs in a task")

        async def watch() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            if not context.finished:  # servers report the end of the response as a disconnect, too
                gone.set()
                work.cancel()

        watcher = asyncio.create_task(watch())
        try:
            await self._app(scope, replay, send)
        except asyncio.CancelledError:
            if not gone.is_set() or work.uncancel() > 0:
                raise
            context.aborted = True
        finally:
            watcher.cancel()

    async def _refuse(
        self, status: int, code: str, message: str, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Answer without the rest of the body, which the server discards as it arrives: closing at once would
        reset the connection, and the client might never read why."""
        refusal = error_response(status, code, message, context_of(scope).request_id)
        await refusal(scope, receive, send)


class _ClientGone(Exception):
    """The client closed the connection before its request was complete."""
