"""The application: `create_app` puts the rooms together behind HTTP. Imports neither torch nor vllm."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.responses import Response

from adaptive_lora import __version__
from adaptive_lora.agents.view import Routes
from adaptive_lora.engine.base import Engine
from adaptive_lora.serving import errors
from adaptive_lora.serving.addresses import ClientAddresses
from adaptive_lora.serving.api_page import add_page
from adaptive_lora.serving.auth.gate import Gate
from adaptive_lora.serving.auth.guard import without_security
from adaptive_lora.serving.auth.middleware import Authentication
from adaptive_lora.serving.backups import BackupWatch
from adaptive_lora.serving.batches.desk import Desk
from adaptive_lora.serving.batches.runner import Runner
from adaptive_lora.serving.binding import allowed_hosts
from adaptive_lora.serving.limits import BODY_READ_TIMEOUT_S
from adaptive_lora.serving.middleware import PROBES, Accounting, Admission, HostCheck, Intake
from adaptive_lora.serving.quotas.middleware import RateLimits
from adaptive_lora.serving.routes import (
    fleet,
    generate,
    health,
    lifecycle,
    openai_batches,
    openai_chat,
    openai_completions,
    openai_files,
)
from adaptive_lora.serving.routes.common import as_json
from adaptive_lora.serving.routes.platforms import anybody, health_route, platform_router
from adaptive_lora.serving.runtime import Runtime
from adaptive_lora.settings import Settings
from adaptive_lora.telemetry.metrics import Metrics

DESCRIPTION = """One base model, a fleet of LoRA agents, and a router that decides which of them answers.

Every response names who answered in `x-adaptive-lora-agent`, `-version` and `-confidence`, and its request in
`x-request-id`. Every error is `{error: {code, message, request_id, type, param}}`."""


def create_app(
    settings: Settings,
    *,
    engine: Engine | None = None,
    router: Routes | None = None,
    on_ready: Callable[[], None] | None = None,
    on_failure: Callable[[], None] | None = None,
) -> FastAPI:
    """Build the application. What is not given is built from `settings` when the application starts, in the
    background: it is live at once, and ready later. `on_ready` is called once, before it serves; `on_failure`
    is called once if it can never serve, or no more.
    """
    metrics = Metrics()
    gate = Gate.of(settings)
    runtime = Runtime(
        settings,
        metrics,
        engine=engine,
        router=router,
        before_ready=gate.credentials.known if gate is not None else None,
        on_ready=on_ready,
        on_failure=on_failure,
    )
    desk = Desk(settings)
    runner = Runner(desk, runtime, gate)
    backups = BackupWatch(desk, metrics.backup)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        if gate is not None:
            gate.credentials.start()
        runtime.start()
        runner.start()
        backups.start()
        try:
            yield
        finally:
            await backups.stop()
            await runner.stop()
            await runtime.stop()
            if gate is not None:
                await gate.credentials.stop()

    app = FastAPI(
        title="Adaptive LoRA",
        version=__version__,
        description=DESCRIPTION,
        license_info={"name": "Apache-2.0"},
        lifespan=lifespan,
        redirect_slashes=False,
        openapi_url="/openapi.json" if settings.api.docs else None,
        docs_url=None,
        redoc_url=None,
    )
    add_page(app)
    app.state.runtime = runtime
    app.state.gate = gate
    app.state.desk = desk
    app.state.runner = runner
    if gate is None:
        without_security(app)
    errors.install(app)
    openai = (openai_chat, openai_completions, openai_files, openai_batches)
    for module in (generate, *openai, fleet, lifecycle, health):
        app.include_router(module.router)
    contract = platform_router(settings, taken={getattr(route, "path", "") for route in app.routes})
    if contract is not None:
        app.include_router(contract)
    probes = PROBES | {path for path in [health_route(settings.platform)] if path is not None}

    @app.get("/", include_in_schema=False)
    async def index() -> Response:
        return as_json(
            {"name": "adaptive-lora", "version": __version__, "docs": "/docs", "health": "/health"}
        )

    # The last one added is the outermost.
    limit = settings.api.max_concurrent_requests
    app.add_middleware(Admission, limit=limit, drain=runtime.drain, probes=probes)
    app.add_middleware(
        Intake,
        max_body_bytes=settings.api.max_body_bytes,
        read_timeout_s=BODY_READ_TIMEOUT_S,
        streamed={lifecycle.UPLOAD_PATH, openai_files.UPLOAD_PATH},
    )
    addresses = ClientAddresses(settings.api.trusted_proxies)
    app.add_middleware(RateLimits, limiter=runtime.limiter, addresses=addresses, probes=probes)
    app.add_middleware(
        Authentication,
        gate=gate,
        attempts=runtime.attempts,
        addresses=addresses,
        anybody=anybody(settings.platform),
    )
    app.add_middleware(HostCheck, allowed=allowed_hosts(settings.api))
    app.add_middleware(
        Accounting,
        metrics=metrics,
        drain=runtime.drain,
        traces=runtime.traces,
        prompts=runtime.prompts,
        probes=probes,
    )
    return app
