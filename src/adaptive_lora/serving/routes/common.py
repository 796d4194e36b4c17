"""What the endpoints share."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from fastapi import Request
from starlette.responses import Response

from adaptive_lora.agents.view import FleetView
from adaptive_lora.serving.admission.timeout import timeout_of
from adaptive_lora.serving.auth.guard import principal_of
from adaptive_lora.serving.cache.answers import Answers, CacheResult
from adaptive_lora.serving.cache.policy import policy_of
from adaptive_lora.serving.context import context_of
from adaptive_lora.serving.runtime import Runtime
from adaptive_lora.serving.schemas.common import ErrorBody
from adaptive_lora.serving.stream import MEDIA_TYPE


def runtime_of(request: Request) -> Runtime:
    runtime = request.app.state.runtime
    if not isinstance(runtime, Runtime):
        raise TypeError("the application has no runtime: build it with create_app")
    return runtime


def allowed_to(request: Request) -> frozenset[str] | None:
    """Names of the agents that the caller may use and know of; None is all of them."""
    return principal_of(request.scope).agents


def view_of(request: Request) -> FleetView:
    """The fleet as this caller may see it. Raises EngineNotReady."""
    return runtime_of(request).orchestrator.view.restricted_to(allowed_to(request))


def answers_of(request: Request, results: list[CacheResult] | None = None) -> Answers:
    """The caller's way to answers, as its headers want it. Where each came from is added to `results`, by
    default those that the response's headers show. Raises EngineNotReady unless requests are served."""
    context = context_of(request.scope)
    shown = context.cache_results if results is None else results
    caller = principal_of(request.scope)
    policy = policy_of(request.headers)
    return runtime_of(request).answers(caller.tenant, policy, shown, context.grant, tier=caller.tier)


def deadline_of(request: Request) -> float:
    """When the answer must be complete, on the event loop's clock: after `api.timeout`, or sooner if the
    caller says so. Raises EngineNotReady, and InvalidRequest for a header that is no number of seconds."""
    return runtime_of(request).orchestrator.deadline(timeout_of(request.headers))


_REASONS = {
    400: "The request cannot be served as it is, or the Host header is malformed",
    401: "No credentials, or such as prove nothing",
    403: "Not allowed: by the credential's scopes or agents, or here at all",
    404: "Unknown agent or model",
    408: "The body did not arrive in time",
    409: "The fleet is not in the state that this change needs",
    413: "The body is too large",
    415: "Not a type that this endpoint reads",
    421: "This server does not answer for that host name",
    422: "The body does not fit the schema",
    429: "More than the caller's limits allow; see Retry-After",
    500: "Something went wrong on the server",
    503: "Not ready, overloaded, or stopped; see Retry-After",
    504: "The request ran past its deadline",
    507: "No room on the disk",
}


_ERROR_CONTENT: Final = {
    "application/json": {"schema": {"$ref": f"#/components/schemas/{ErrorBody.__name__}"}}
}


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """OpenAPI's `responses` for these statuses, in the one shape of errors. The first one brings the shape's
    model and the others refer to it: a model for each would be most of what an application's start takes."""
    first, *others = sorted(statuses)
    described: dict[int | str, dict[str, Any]] = {first: {"model": ErrorBody, "description": _REASONS[first]}}
    for status in others:
        described[status] = {"content": _ERROR_CONTENT, "description": _REASONS[status]}
    return described


ON_EVERY_PATH = (400, 421, 500)
ON_GUARDED = (*ON_EVERY_PATH, 401, 403, 429, 503)
"""503 is also for credentials that cannot be checked."""
ON_POST = (*ON_GUARDED, 404, 408, 413, 422, 504)


def streamed(description: str) -> dict[int | str, dict[str, Any]]:
    """OpenAPI's note that 200 may also be a stream."""
    return {200: {"content": {MEDIA_TYPE: {}}, "description": description}}


def as_json(body: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(body), status, media_type="application/json")
