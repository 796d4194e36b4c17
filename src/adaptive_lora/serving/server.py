"""The process that serves: uvicorn, one worker, a clean end (`drain`)."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI

from adaptive_lora.serving.admin import create_admin_app
from adaptive_lora.serving.api import create_app
from adaptive_lora.serving.binding import allow_open_files, bind, check_bind, url_of
from adaptive_lora.serving.connection import KEEP_ALIVE_S, BoundedConnection, look_at, part_with_kept
from adaptive_lora.serving.drain import LAST_WORDS_S
from adaptive_lora.serving.private_metrics import create_metrics_app
from adaptive_lora.serving.runtime import Runtime
from adaptive_lora.settings import Settings
from adaptive_lora.telemetry.logging import configure_logging

_log = logging.getLogger(__name__)

GC_THRESHOLD = 10_000
"""Objects that came and did not go, until the garbage collector looks through the youngest; Python's 700 are
reached within a few requests."""

TICKS_PER_S = 10
"""Of uvicorn's main loop."""
LINGER_S = 10.0
"""How long clients may take to read what was sent last, if there is as much time; then they are cut off."""
MAX_CONNECTIONS_BESIDE = 64
"""Of the administrators' port, and of Prometheus'."""
MAX_STOP_S = 5.0
"""What is kept of the grace period for the engine's own end; at most a fifth of it."""


class _Server(uvicorn.Server):
    """Ends its connections for certain: who does not read does not keep the process."""

    ends_at: float | None = None
    """When they must have ended, on the event loop's clock."""

    async def on_tick(self, counter: int) -> bool:
        if counter % TICKS_PER_S == 0:
            look_at(self.server_state.connections, asyncio.get_running_loop().time())
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        loop = asyncio.get_running_loop()
        linger_until = loop.time() + (0.0 if self.force_exit else LINGER_S)
        cut = loop.call_at(min(linger_until, self.ends_at or linger_until), self._cut_connections)
        try:
            await super().shutdown(sockets)
        finally:
            cut.cancel()

    def _cut_connections(self) -> None:
        for connection in list(self.server_state.connections):
            connection.transport.abort()


class _Beside(_Server):
    """Serves beside another server, which takes the signals."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _Main(_Server):
    """Drains on the first signal, and stops at once on the second. What serves beside it begins and ends
    with it."""

    def __init__(self, config: uvicorn.Config, runtime: Runtime) -> None:
        super().__init__(config)
        self._runtime = runtime
        self._draining: asyncio.Task[None] | None = None
        self._beside: list[tuple[_Beside, socket.socket]] = []

    def with_beside(self, config: uvicorn.Config, listener: socket.socket) -> None:
        self._beside.append((_Beside(config), listener))

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._loop.call_soon_threadsafe(self._told_to_stop, sig)

    async def on_tick(self, counter: int) -> bool:
        if self._runtime.drain.is_closed:
            part_with_kept(self.server_state.connections)
        return await super().on_tick(counter)

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        others = [asyncio.create_task(server.serve([listener])) for server, listener in self._beside]
        try:
            await super().serve(sockets)
        finally:
            for server, _ in self._beside:
                server.ends_at = self.ends_at
                server.should_exit = True
            await asyncio.gather(*others)

    def _told_to_stop(self, sig: int) -> None:
        if self._draining is None:
            self._draining = asyncio.create_task(self._drain(sig))
        else:
            self.force_exit = True
            self._runtime.drain.hurry()
            if self.should_exit:  # connections alone are waited for
                self._cut_connections()

    async def _drain(self, sig: int) -> None:
        api = self._runtime.settings.api
        answering_s = api.grace_seconds - min(MAX_STOP_S, api.grace_seconds / 5)
        wait_s = 0.0 if sig == signal.SIGINT else min(api.drain_seconds, answering_s)
        self.ends_at = self._loop.time() + answering_s + LAST_WORDS_S
        self._runtime.leave()
        try:
            await self._runtime.drain.run(wait_s=wait_s, finish_s=answering_s - wait_s)
        finally:
            self.should_exit = True


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

    api, monitoring = settings.api, settings.monitoring
    app = create_app(settings, on_ready=_settle, on_failure=give_up)
    server = _Main(_config(app, lifespan=True, max_connections=api.max_connections), app.state.runtime)
    allow_open_files(api.max_connections)
    with ExitStack() as stack:
        listener = stack.enter_context(bind(api.host, api.port))
        url = url_of(api.host, listener)
        _log.info("listening on %s", url, extra={"url": url})
        if api.admin_port is not None:
            keys = "api.admin_host and api.admin_port"
            admin_listener = stack.enter_context(bind(api.admin_host, api.admin_port, keys=keys))
            admin = create_admin_app(app)
            server.with_beside(_config_beside(admin), admin_listener)
            admin_url = url_of(api.admin_host, admin_listener)
            _log.info("listening for administrators on %s", admin_url, extra={"url": admin_url})
        if monitoring.metrics_port is not None:
            keys = "monitoring.metrics_host and monitoring.metrics_port"
            metrics_listener = stack.enter_context(
                bind(monitoring.metrics_host, monitoring.metrics_port, keys=keys)
            )
            server.with_beside(_config_beside(create_metrics_app(app)), metrics_listener)
            metrics_url = url_of(monitoring.metrics_host, metrics_listener)
            _log.info("listening for Prometheus on %s", metrics_url, extra={"url": metrics_url})
        if on_listen is not None:
            on_listen(url)
        server.run(sockets=[listener])
    return 1 if failed or not server.started else 0


def _settle() -> None:
    """What is loaded when requests begin stays: the garbage collector need not look through it again and
    again, which took a tenth of a request's CPU time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD)


def _config_beside(app: FastAPI) -> uvicorn.Config:
    return _config(app, lifespan=False, max_connections=MAX_CONNECTIONS_BESIDE)


def _config(app: FastAPI, *, lifespan: bool, max_connections: int) -> uvicorn.Config:
    protocol: Any = partial(BoundedConnection, max_connections=max_connections)
    return uvicorn.Config(
        app,
        http=protocol,
        ws="none",
        timeout_keep_alive=KEEP_ALIVE_S,
        lifespan="on" if lifespan else "off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
    )
