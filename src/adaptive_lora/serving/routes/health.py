"""GET /live, /ready, /health and /metrics: for probes, people and Prometheus."""

from __future__ import annotations

import time
from dataclasses import asdict

from fastapi import APIRouter, Request
from starlette.responses import Response

from adaptive_lora import __version__
from adaptive_lora.errors import EngineNotReady, Forbidden, NotFound
from adaptive_lora.serving.auth.guard import needs
from adaptive_lora.serving.context import context_of
from adaptive_lora.serving.refused import visible
from adaptive_lora.serving.routes.common import (
    ON_EVERY_PATH,
    ON_GUARDED,
    allowed_to,
    as_json,
    errors,
    runtime_of,
    view_of,
)
from adaptive_lora.serving.runtime import Runtime
from adaptive_lora.serving.schemas.fleet import BriefHealthAnswer, HealthAnswer, LiveAnswer, ReadyAnswer
from adaptive_lora.telemetry.metrics import CONTENT_TYPE

router = APIRouter(tags=["health"])


@router.get("/live", response_model=LiveAnswer, responses=errors(*ON_EVERY_PATH))
async def live() -> Response:
    """The process answers. Says nothing about the engine."""
    return as_json({"status": "alive"})


@router.get("/ready", response_model=ReadyAnswer, responses=errors(*ON_EVERY_PATH, 503))
async def ready(request: Request) -> Response:
    """Requests are served: a canary generation has succeeded, and no stall was noticed since."""
    runtime = runtime_of(request)
    if runtime.phase != "ready":
        known = context_of(request.scope).principal is not None
        raise EngineNotReady(f"{runtime.phase}: {runtime.detail}" if known else f"not ready: {runtime.phase}")
    return as_json({"status": "ready"})


@router.get(
    "/health",
    response_model=HealthAnswer | BriefHealthAnswer,
    responses=errors(*ON_EVERY_PATH)
    | {503: {"model": HealthAnswer | BriefHealthAnswer, "description": "Does not serve; why"}},
)
async def health(request: Request) -> Response:
    """Everything about this process's state; 200 if it serves, else 503. Who is not known reads the status
    alone; a credential for some agents reads nothing of the engine, which counts the others' agents and
    requests."""
    runtime = runtime_of(request)
    serving = runtime.phase == "ready"
    principal = context_of(request.scope).principal
    if principal is None:
        return as_json({"status": runtime.phase}, 200 if serving else 503)
    stats = await runtime.stats() if principal.agents is None else None
    age_s = runtime.canary_age_s
    body = {
        "status": runtime.phase,
        "detail": runtime.detail,
        "version": __version__,
        "uptime_s": round(time.monotonic() - runtime.started_at, 3),
        "base_model": runtime.base_model,
        "engine": asdict(stats) if stats else None,
        "adapters": sorted(view_of(request).versions) if serving else [],
        "rejected": sorted(visible(runtime.rejected, principal.agents)),
        "canary_age_s": None if age_s is None else round(age_s, 3),
    }
    return as_json(body, 200 if serving else 503)


@router.get(
    "/metrics",
    response_class=Response,
    responses=errors(*ON_GUARDED, 404) | {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    dependencies=[needs("metrics")],
)
async def metrics(request: Request) -> Response:
    """Prometheus' text format. It names every agent: a credential for some agents alone is not enough."""
    runtime = runtime_of(request)
    if allowed_to(request) is not None:
        raise Forbidden("metrics name every agent, and your credential is for some of them alone")
    if not runtime.settings.monitoring.prometheus_enabled:
        raise NotFound("metrics are switched off here (monitoring.prometheus_enabled)")
    return await rendered_metrics(runtime)


async def rendered_metrics(runtime: Runtime) -> Response:
    """Prometheus' text format, with the engine's figures of this moment."""
    await runtime.stats()
    return Response(runtime.metrics.render(), media_type=None, headers={"content-type": CONTENT_TYPE})
