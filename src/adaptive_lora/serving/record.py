"""What a request leaves behind when it has ended: the fields of its log line, the attributes of its span."""

from __future__ import annotations

import time
from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Any, Final

from adaptive_lora.serving.context import RequestContext
from adaptive_lora.telemetry.tracing import Value

CLIENT_CLOSED: Final = 499
"""In metrics and logs only: nobody is left to read a status."""
UNMATCHED: Final = "unmatched"
"""The route of a path that none has: what it says is the client's own invention, and kept nowhere."""
OTHER_METHOD: Final = "_OTHER"
"""OpenTelemetry's word for a method that HTTP does not know."""
METHODS: Final = frozenset({"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"})


@dataclass(frozen=True, slots=True)
class Ended:
    """One request, seen from its end."""

    method: str
    route: str
    """A template, or UNMATCHED."""
    code: int
    """HTTP status, or CLIENT_CLOSED."""
    outcome: str
    """success, error, aborted"""
    seconds: float


def ended(scope: MutableMapping[str, Any], context: RequestContext) -> Ended:
    code = CLIENT_CLOSED if context.aborted or context.status is None else context.status
    outcome = "error" if context.failed or code >= 400 else "success"
    if code == CLIENT_CLOSED:
        outcome = "aborted"
    route = getattr(scope.get("route"), "path", UNMATCHED)
    return Ended(method_of(scope), route, code, outcome, time.perf_counter() - context.started)


def method_of(scope: MutableMapping[str, Any]) -> str:
    method: str = scope["method"]
    return method if method in METHODS else OTHER_METHOD


def log_fields(end: Ended, context: RequestContext) -> dict[str, object]:
    fields: dict[str, object] = {
        "method": end.method,
        "route": end.route,
        "status": end.code,
        "outcome": end.outcome,
        "latency_ms": round(end.seconds * 1000, 1),
    }
    if context.error_code is not None:
        fields["code"] = context.error_code
    if context.principal is not None and context.principal.credential is not None:
        fields["tenant"] = context.principal.tenant
    if len(context.plans) == 1:
        plan = context.plans[0]
        fields |= {
            "agent": plan.agent,
            "version": plan.version,
            "confidence": round(plan.decision.confidence, 4),
            "decision": plan.summary,
        }
    if len(context.cache_results) == 1:
        fields["cache"] = context.cache_results[0]
    if context.client_request_id:
        fields["client_request_id"] = context.client_request_id
    return fields


def span_name(end: Ended) -> str:
    method = "HTTP" if end.method == OTHER_METHOD else end.method
    return method if end.route == UNMATCHED else f"{method} {end.route}"


def span_attributes(end: Ended, context: RequestContext, scope: MutableMapping[str, Any]) -> dict[str, Value]:
    attributes: dict[str, Value] = {
        "http.request.method": end.method,
        "url.scheme": scope.get("scheme", "http"),
        "network.protocol.version": scope.get("http_version", "1.1"),
        "adaptive_lora.request_id": context.request_id,
        "adaptive_lora.outcome": end.outcome,
    }
    if end.route != UNMATCHED:
        attributes |= {"http.route": end.route, "url.path": scope["path"]}
    if context.status is not None:
        attributes["http.response.status_code"] = context.status
    if len(context.plans) == 1:
        plan = context.plans[0]
        attributes |= {
            "adaptive_lora.agent": plan.agent,
            "adaptive_lora.version": plan.version,
            "adaptive_lora.decision": plan.summary,
        }
    elif context.plans:
        attributes["adaptive_lora.n_plans"] = len(context.plans)
    if context.cache_results:
        attributes["adaptive_lora.cache"] = ",".join(sorted(set(context.cache_results)))
    return attributes


def span_error(end: Ended, context: RequestContext) -> str | None:
    """`error.type` of the request's span: what went wrong on our side, not on the client's."""
    if context.failed:
        return "stream_failed" if end.code < 400 else str(end.code)
    return str(end.code) if end.code >= 500 else None
