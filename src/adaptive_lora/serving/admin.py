"""The administrators' application: on a port of its own, or nowhere (`api.admin_port`).

None of its routes exist on the public port, so that no mistake in a proxy's rules can publish them. It shares
the public application's state, and asks for the scope `admin` on every route.
"""

from __future__ import annotations

from fastapi import FastAPI

from adaptive_lora import __version__
from adaptive_lora.serving import errors
from adaptive_lora.serving.api_page import add_page
from adaptive_lora.serving.auth.guard import without_security
from adaptive_lora.serving.auth.middleware import Authentication
from adaptive_lora.serving.binding import admin_hosts
from adaptive_lora.serving.limits import BODY_READ_TIMEOUT_S
from adaptive_lora.serving.middleware import Accounting, Admission, HostCheck, Intake
from adaptive_lora.serving.profiling import Profiling
from adaptive_lora.serving.routes import access, debug

MAX_CONCURRENT_REQUESTS = 16
MAX_BODY_BYTES = 65_536


def create_admin_app(public: FastAPI) -> FastAPI:
    """The administrators' side of an application that `create_app` made, which starts and stops the state of
    both."""
    runtime, gate = public.state.runtime, public.state.gate
    app = FastAPI(
        title="Adaptive LoRA, administration",
        version=__version__,
        description="API keys, revocation, the audit log, profiles. Every endpoint needs the scope `admin`.",
        redirect_slashes=False,
        openapi_url="/openapi.json" if runtime.settings.api.docs else None,
        docs_url=None,
        redoc_url=None,
    )
    add_page(app)
    app.state.runtime = runtime
    app.state.gate = gate
    app.state.profiling = Profiling()
    errors.install(app)
    app.include_router(access.router)
    app.include_router(debug.router)
    if gate is None:
        without_security(app)
    # The last one added is the outermost.
    app.add_middleware(Admission, limit=MAX_CONCURRENT_REQUESTS, drain=runtime.drain)
    app.add_middleware(Intake, max_body_bytes=MAX_BODY_BYTES, read_timeout_s=BODY_READ_TIMEOUT_S)
    app.add_middleware(Authentication, gate=gate, attempts=runtime.attempts)
    app.add_middleware(HostCheck, allowed=admin_hosts(runtime.settings.api))
    app.add_middleware(
        Accounting,
        metrics=runtime.metrics,
        drain=runtime.drain,
        traces=runtime.traces,
        prompts=runtime.prompts,
    )
    return app
