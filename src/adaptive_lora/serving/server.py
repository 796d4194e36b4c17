"""The process that serves: uvicorn, one worker, a clean end."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable

import uvicorn

from adaptive_lora.serving.api import create_app
from adaptive_lora.serving.binding import check_bind
from adaptive_lora.settings import Settings
from adaptive_lora.telemetry.logging import configure_logging

_log = logging.getLogger(__name__)

MAX_GRACE_S = 30
"""How long requests in flight may take to finish after SIGTERM or Ctrl-C."""


class _Server(uvicorn.Server):
    """Says where it listens; a free port is known only then."""

    def __init__(self, config: uvicorn.Config, on_listen: Callable[[str], None] | None) -> None:
        super().__init__(config)
        self._on_listen = on_listen

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if not self.should_exit and self.servers:
            host = self.config.host
            port = self.servers[0].sockets[0].getsockname()[1]
            url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
            _log.info("listening on %s", url, extra={"url": url})
            if self._on_listen is not None:
                self._on_listen(url)


def run_server(
    settings: Settings, *, insecure: bool = False, on_listen: Callable[[str], None] | None = None
) -> int:
    """Serve until SIGTERM or Ctrl-C. Returns the process's exit code: 1 if the engine cannot start or dies.

    `on_listen` is told the URL once the socket is bound (port 0 takes a free one). Raises SettingsError as
    `check_bind` does.
    """
    check_bind(settings, insecure)
    configure_logging(settings.monitoring.log_level)
    failed = False

    def give_up() -> None:
        nonlocal failed
        failed = True
        server.should_exit = True

    app = create_app(settings, on_failure=give_up)
    config = uvicorn.Config(
        app,
        host=settings.api.host,
        port=settings.api.port,
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=MAX_GRACE_S,
    )
    server = _Server(config, on_listen)
    server.run()
    return 1 if failed or not server.started else 0
