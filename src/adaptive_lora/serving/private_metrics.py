"""/metrics without a key, on a port of its own (`monitoring.metrics_port`) that only Prometheus should reach.

On the public port it needs the scope `metrics`, since it names every agent.
"""

from __future__ import annotations

from fastapi import FastAPI
from starlette.responses import Response

from adaptive_lora.serving import errors
from adaptive_lora.serving.binding import metrics_hosts
from adaptive_lora.serving.middleware import Accounting, HostCheck
from adaptive_lora.serving.routes.health import rendered_metrics
from adaptive_lora.serving.runtime import Runtime


def create_metrics_app(public: FastAPI) -> FastAPI:
    """The metrics of an application that `create_app` made; nothing else is served."""
    runtime: Runtime = public.state.runtime
    app = FastAPI(redirect_slashes=False, openapi_url=None)
    errors.install(app)

    @app.get("/metrics")
    async def metrics() -> Response:
        return await rendered_metrics(runtime)

    # The last one added is the outermost.
    app.add_middleware(HostCheck, allowed=metrics_hosts(runtime.settings.monitoring))
    app.add_middleware(
        Accounting,
        metrics=runtime.metrics,
        drain=runtime.drain,
        traces=runtime.traces,
        prompts=runtime.prompts,
    )
    return app
