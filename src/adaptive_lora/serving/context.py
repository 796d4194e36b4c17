"""What is known about one HTTP request while it is served; lives in the ASGI scope."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from adaptive_lora.agents.plan import Plan
from adaptive_lora.errors import AdaptiveLoraError
from adaptive_lora.serving.cache.answers import CacheResult
from adaptive_lora.serving.cache.policy import HEADER as CACHE_HEADER
from adaptive_lora.serving.principal import Principal
from adaptive_lora.telemetry.tracing import Parent, parse_parent

if TYPE_CHECKING:
    from adaptive_lora.serving.quotas.limiter import Grant

_KEY = "adaptive_lora"
_LABEL = re.compile(r"[A-Za-z0-9._-]{1,64}")

_ALWAYS = ((b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff"))
"""Answers are for their caller alone: nobody on the way keeps them, and no browser guesses what they are."""


@dataclass(slots=True)
class RequestContext:
    """One request's identity and fate. `plans` is set once it is decided who answers."""

    request_id: str
    client_request_id: str | None = None
    """The caller's own X-Request-Id, if it is a harmless label; never used for anything but showing it."""
    parent: Parent | None = None
    """The span of the caller's own trace, if the request names one."""
    started: float = field(default_factory=time.perf_counter)
    principal: Principal | None = None
    """Who makes it; None until authentication has recognised somebody."""
    refusal: AdaptiveLoraError | None = None
    """Why the credentials were not believed: told on routes that need some."""
    grant: Grant | None = None
    """What the limits allow it; None where there are none."""
    plans: Sequence[Plan] = ()
    cache_results: list[CacheResult] = field(default_factory=list)
    """Where each plan's answer came from; empty if there is no cache."""
    status: int | None = None
    """HTTP status, once sent."""
    finished: bool = False
    """The last byte of the response has been handed to the server."""
    error_code: str | None = None
    """Of the error that it was answered with, or that ended its stream."""
    failed: bool = False
    """A stream that began well and ended in an error."""
    aborted: bool = False
    """The client went away first."""
    interruption: AdaptiveLoraError | None = None
    """Why the server itself cancels the request's task; its answer ends with this."""

    def headers(self) -> list[tuple[bytes, bytes]]:
        """What every response carries; several plans (a list of prompts) are listed in order."""
        headers = [(b"x-request-id", self.request_id.encode()), *_ALWAYS]
        if self.client_request_id:
            headers.append((b"x-client-request-id", self.client_request_id.encode()))
        if self.grant is not None:
            headers += self.grant.headers()
        if self.plans:
            headers += [
                (b"x-adaptive-lora-agent", ",".join(plan.agent for plan in self.plans).encode()),
                (b"x-adaptive-lora-version", ",".join(plan.version for plan in self.plans).encode()),
                (
                    b"x-adaptive-lora-confidence",
                    ",".join(f"{plan.decision.confidence:.4f}" for plan in self.plans).encode(),
                ),
                (b"x-adaptive-lora-decision", ",".join(plan.summary for plan in self.plans).encode()),
            ]
        if self.cache_results:
            headers.append((CACHE_HEADER.encode(), ",".join(self.cache_results).encode()))
        return headers


def new_context(scope: MutableMapping[str, Any]) -> RequestContext:
    """Mint the request's id and put its context into the scope."""
    label = tracestate = b""
    traceparents = []
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            label = label or value
        elif name == b"traceparent":
            traceparents.append(value)
        elif name == b"tracestate":
            tracestate = tracestate + b"," + value if tracestate else value
    text = label.decode("latin-1")
    context = RequestContext(f"req-{uuid.uuid4().hex}", text if _LABEL.fullmatch(text) else None)
    if len(traceparents) == 1:
        context.parent = parse_parent(traceparents[0], tracestate)
    scope[_KEY] = context
    return context


def context_of(scope: MutableMapping[str, Any]) -> RequestContext:
    context = scope[_KEY]
    if not isinstance(context, RequestContext):
        raise TypeError("the request has no context: is the RequestContextMiddleware installed?")
    return context
