"""The process that serves: uvicorn, one worker, a clean end."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType

import uvicorn
from fastapi import FastAPI

from adaptive_lora.serving.admin import create_admin_app
from adaptive_lora.serving.api import create_app
from adaptive_lora.serving.binding import bind, check_bind, url_of
from adaptive_lora.serving.protocol import StrictProtocol
from adaptive_lora.settings import Settings
from adaptive_lora.telemetry.logging import configure_logging

_log = logging.getLogger(__name__)

MAX_GRACE_S = 30
"""How long requests in flight may take to finish after SIGTERM or Ctrl-C."""


class _Beside(uvicorn.Server):
    """Serves beside another server, which takes the signals."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _Server(uvicorn.Server):
    """Stops on SIGTERM and Ctrl-C as told to, not as killed by them: a second Ctrl-C does not wait any
    more. What serves beside it begins and ends with it."""

    beside: _Beside | None = None
    beside_sockets: list[socket.socket]

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = True

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        if self.beside is None:
            await super().serve(sockets)
            return
        other = asyncio.create_task(self.beside.serve(self.beside_sockets))
        try:
            await super().serve(sockets)
        finally:
            self.beside.should_exit = True
            await other


def run_server(settings: Settings, *, on_listen: Callable[[str], None] | None = None) -> int:
    """Serve until SIGTERM or Ctrl-C. Returns the process's exit code: 1 if the engine cannot start or dies.

    `on_listen` is told the URL once the socket is bound (port 0 takes a free one). Raises SettingsError for
    an address that may not or cannot be bound.
    """
    check_bind(settings)
    configure_logging(settings.monitoring.log_level)
    auth = settings.auth
    if not auth.enabled and (auth.jwt_secret or auth.jwt_secret_file or auth.jwks_file):
        _log.warning(
            "tokens are configured, and authentication is off: set auth.enabled: true to ask for them"
        )
    failed = False

    def give_up() -> None:
        nonlocal failed
        failed = True
        server.should_exit = True

    api = settings.api
    app = create_app(settings, on_failure=give_up)
    server = _Server(_config(app, lifespan=True))
    with ExitStack() as stack:
        listener = stack.enter_context(bind(api.host, api.port))
        url = url_of(api.host, listener)
        _log.info("listening on %s", url, extra={"url": url})
        if api.admin_port is not None:
            keys = "api.admin_host and api.admin_port"
            admin_listener = stack.enter_context(bind(api.admin_host, api.admin_port, keys=keys))
            server.beside = _Beside(_config(create_admin_app(app), lifespan=False))
            server.beside_sockets = [admin_listener]
            admin_url = url_of(api.admin_host, admin_listener)
            _log.info("listening for administrators on %s", admin_url, extra={"url": admin_url})
        if on_listen is not None:
            on_listen(url)
        server.run(sockets=[listener])
    return 1 if failed or not server.started else 0


def _config(app: FastAPI, *, lifespan: bool) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=StrictProtocol,
        ws="none",
        lifespan="on" if lifespan else "off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=MAX_GRACE_S,
    )
